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

#include "avx512_kernels.h"
#include "dot_bf16.h"
#include "network.h"

namespace convnext {

int run_avx512_bf16(const Request& request) {
  return run_network<Avx512Kernels<DotBf16>>(request);
}

}  // namespace convnext
