// Kernels for the tile registers of AMX with bf16; AVX-512 for everything else.
#include <immintrin.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#if defined(CONVNEXT_EMULATE)
#pragma GCC target("avx2,fma")
#else
// The instructions on tiles are assembly, which needs no target here.
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")
#endif

#include "amx_kernels.h"
#include "network.h"

namespace convnext {

int run_amx_bf16(const Request& request) {
  return run_network<AmxKernels<Bf16, SumsInFp32<16>>>(request);
}

}  // namespace convnext
