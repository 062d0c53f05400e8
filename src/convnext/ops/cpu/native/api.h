// The whole interface of the native library: plain C, called from Python through ctypes.
//
// One call runs the stem, all stages and the mean over positions of one ConvNeXt on the CPU, in fp32,
// with bf16 products, or with products of 8-bit integers in some blocks. The caller folds and packs the
// weights once (convnext/ops/cpu/packing.py).
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Sets of kernels; what each needs of the CPU is in api.cpp.
enum convnext_kernels {
  AVX2_FP32 = 0,
  AVX512_FP32 = 1,
  AVX512_BF16 = 2,
  AMX_BF16 = 3,
  VNNI_INT8 = 4,  // blocks that are not quantised as AVX512_FP32
  AMX_INT8 = 5,   // as AMX_BF16
  AVX2_INT8 = 6,  // as AVX2_FP32
  AVX_VNNI_INT8 = 7,
  AMX_BF16_HALF = 8,  // as AMX_BF16, but maps and sums of depthwise convolutions in fp16
  AMX_INT8_HALF = 9   // as AMX_INT8, likewise
};

enum convnext_feature {
  FEATURE_AVX2 = 1,  // and FMA
  FEATURE_AVX512 = 2,  // F, BW, DQ and VL
  FEATURE_AVX512_BF16 = 4,
  FEATURE_AVX512_VNNI = 8,
  FEATURE_AVX_VNNI = 16,
  FEATURE_AMX_BF16 = 32,  // of the CPU, and granted by the operating system
  FEATURE_AMX_INT8 = 64,
  FEATURE_AVX512_FP16 = 128  // also of the compiler that made this library
};

enum convnext_status {
  STATUS_DONE = 0,
  STATUS_OUT_OF_MEMORY = 1,
  STATUS_MALFORMED = 2,
  STATUS_UNAVAILABLE = 3  // the kernels, on this CPU or in this build
};

enum { CONVNEXT_MAX_STAGES = 8, CONVNEXT_PROFILE_PARTS = 6 };

// Memory for intermediate values that a thread keeps for its next call, and frees when it ends. If a
// call took more, it frees all of it.
enum { CONVNEXT_KEPT_BYTES = 64 << 20 };

typedef struct convnext_call {
  int64_t version;  // 2
  int64_t kernels, threads;
  int64_t n, channels, height, width;              // of the input
  int64_t stride_n, stride_c, stride_h, stride_w;  // in elements, any
  int64_t stem_kernel, stem_stride, stem_padding, stem_norm;
  int64_t grn, num_stages;
  int64_t depths[CONVNEXT_MAX_STAGES], dims[CONVNEXT_MAX_STAGES];  // true channels
  double eps;                                                      // of every LayerNorm
  const uint8_t* quantised;  // for every block whether it is quantised; null: none is
} convnext_call;

// A sum of convnext_feature.
uint64_t convnext_cpu_features(void);

// Run the network. `outputs` are num_stages + 1 dense arrays, null where not wanted: the map of each
// stage as (n, height, width, channels), then the mean over positions of the last, (n, channels).
// `profile` is null, or num_stages * 6 seconds summed over the threads: stem or downsample, depthwise,
// LayerNorm, GEMM1 + GELU, GRN, GEMM2 + residual.
// Weights, every one aligned to 64 bytes; vectors are fp32, padded with zeros to whole panels:
//   stem: W (K = channels * k * k in order (ci, ky, kx)), bias, [norm weight, norm bias]
//   stage i: if i > 0: W (K = 4 * padded channels, in order (ky, kx, c)), bias; for every block:
//     depthwise (49, padded channels), its bias, W1, b1, [grn gamma], W2, b2
// In place of W and b a quantised block has W of int8 (AVX2_INT8: in 16 bits), start values of the sums
// (int32), units of the outputs, bias; before the first lie factors of the normalised channels, before
// the second 1 / scale of each hidden channel and their zero point (1).
// Memory for what lies between input and outputs belongs to the threads that compute: each keeps the
// most that a call has taken, until it ends. It grows with the size of an image, not with their number.
// A packed W is [panels of P columns][K / g][P][g], g elements in 32 bits (AMX: see amx_gemm.h).
int convnext_run(const convnext_call* call, const float* input, const void* const* weights,
                 int64_t num_weights, float* const* outputs, double* profile);

#ifdef __cplusplus
}
#endif
