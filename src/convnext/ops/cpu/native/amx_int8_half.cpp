// Kernels for the tile registers of AMX with 8-bit integers, bf16 where a network is not quantised,
// and for AVX-512 with numbers of fp16.
#include <immintrin.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "sets.h"

#if defined(CONVNEXT_FP16)

#if defined(CONVNEXT_EMULATE)
#pragma GCC target("avx2,fma,f16c")
#else
// The instructions on tiles are assembly, which needs no target here.
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512fp16")
#pragma GCC target("prefer-vector-width=512")
#endif

#include "amx_int8_kernels.h"
#include "half.h"
#include "network.h"

namespace convnext {

int run_amx_int8_half(const Request& request) {
  return run_network<AmxInt8Kernels<Half, SumsInFp16>>(request);
}

}  // namespace convnext

#else

int convnext::run_amx_int8_half(const Request&) { return STATUS_UNAVAILABLE; }

#endif
