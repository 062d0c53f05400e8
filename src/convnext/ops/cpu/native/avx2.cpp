// Kernels for AVX2 and FMA.
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#pragma GCC target("avx2,fma")

#include "avx2_kernels.h"
#include "network.h"

namespace convnext {

int run_avx2_fp32(const Request& request) { return run_network<Avx2Kernels>(request); }

}  // namespace convnext
