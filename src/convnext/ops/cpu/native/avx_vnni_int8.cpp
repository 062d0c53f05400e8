// Kernels for AVX-VNNI, the dot products of 8-bit integers of CPUs without AVX-512: four to a lane in
// quantised blocks; everything else as in avx2.cpp.
#include <immintrin.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#if defined(CONVNEXT_EMULATE)
#pragma GCC target("avx2,fma")
#else
#pragma GCC target("avx2,fma,avxvnni")
#endif

#include "avx2_kernels.h"
#include "dot_int8.h"
#include "network.h"

namespace convnext {
namespace {

struct AvxVnniIntegers : VectorKernels<Avx2Tiling, DotInt8> {
  static constexpr Index hidden_slice = 768;
};

struct AvxVnniInt8Kernels : Avx2Kernels {
  using Integers = AvxVnniIntegers;
};

}  // namespace

int run_avx_vnni_int8(const Request& request) { return run_network<AvxVnniInt8Kernels>(request); }

}  // namespace convnext
