// Kernels for AVX-512 with products of bf16, two to a lane; everything else in fp32.
#include <immintrin.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#if defined(CONVNEXT_EMULATE)
#pragma GCC target("avx2,fma")
#else
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")
#endif

#include "dot_bf16.h"
#include "gelu.h"
#include "gemm.h"
#include "network.h"

namespace convnext {
namespace {

struct Avx512Bf16Tiling {
  static constexpr int lanes = 16;
  static constexpr int register_rows = 12;   // 24 registers of sums, 2 of weights
  static constexpr Index chunk_words = 160;  // 20 KB of a panel, and 8 KB of 12 rows
};

struct Avx512Bf16 : VectorKernels<Avx512Bf16Tiling, DotBf16> {
  using Stream = float;
  static constexpr int run = 14;  // 14 registers of sums, 7 of weights, 1 of a position
  static constexpr Index tile_rows = 192;
  static constexpr Index hidden_slice = 512;
  static constexpr Index group_positions = 800;
  static constexpr Index grn_positions = 400;

  static CONVNEXT_INLINE Vec<16> gelu(const Vec<16>& x) { return convnext::gelu<16>(x); }
};

}  // namespace

int run_avx512_bf16(const Request& request) { return run_network<Avx512Bf16>(request); }

}  // namespace convnext
