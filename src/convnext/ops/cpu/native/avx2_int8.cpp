// Kernels for AVX2 with products of 8-bit integers, two to a lane, in quantised blocks; everything else
// as in avx2.cpp.
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#pragma GCC target("avx2,fma")

#include "avx2_kernels.h"
#include "dot_int16.h"
#include "network.h"

namespace convnext {
namespace {

struct Avx2Integers : VectorKernels<Avx2Tiling, DotInt16> {
  static constexpr Index hidden_slice = 768;
};

struct Avx2Int8Kernels : Avx2Kernels {
  using Integers = Avx2Integers;
};

}  // namespace

int run_avx2_int8(const Request& request) { return run_network<Avx2Int8Kernels>(request); }

}  // namespace convnext
