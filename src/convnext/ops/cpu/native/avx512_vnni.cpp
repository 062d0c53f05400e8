// Kernels for AVX-512 with products of 8-bit integers, four to a lane, in quantised blocks; products
// of fp32 in others, and everything else in fp32.
#include <immintrin.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#if defined(CONVNEXT_EMULATE)
#pragma GCC target("avx2,fma")
#else
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
#endif

#include "avx512_kernels.h"
#include "dot_int8.h"
#include "network.h"

namespace convnext {
namespace {

struct VnniIntegers : VectorKernels<Avx512Tiling, DotInt8> {
  static constexpr Index hidden_slice = 1024;
};

struct VnniInt8Kernels : Avx512Kernels<DotFp32> {
  using Integers = VnniIntegers;
};

}  // namespace

int run_vnni_int8(const Request& request) { return run_network<VnniInt8Kernels>(request); }

}  // namespace convnext
