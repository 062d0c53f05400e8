// Kernels for AVX-512 in fp32.
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#if defined(CONVNEXT_EMULATE)
#pragma GCC target("avx2,fma")
#else
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif

#include "avx512_kernels.h"
#include "network.h"

namespace convnext {

int run_avx512_fp32(const Request& request) {
  return run_network<Avx512Kernels<DotFp32>>(request);
}

}  // namespace convnext
