// What api.cpp calls: each set of kernels lies in a translation unit of its own, compiled for its
// instruction set.
#pragma once

#include "api.h"

namespace convnext {

// A call that has been checked.
struct Request {
  const convnext_call& call;
  const float* input;
  const void* const* weights;
  int64_t num_weights;
  float* const* outputs;
  double* profile;
};

// Each returns a convnext_status.
int run_avx2_fp32(const Request& request);
int run_avx512_fp32(const Request& request);
int run_avx512_bf16(const Request& request);
int run_amx_bf16(const Request& request);

// Memory of the calling thread, on a cache line; it stays until the thread asks for more or ends.
// Null if there is none.
void* thread_memory(int64_t bytes);

}  // namespace convnext
