// What api.cpp calls: each set of kernels lies in a translation unit of its own, compiled for its
// instruction set.
#pragma once

#include "api.h"

// Older compilers do not know the instructions.
#if defined(CONVNEXT_EMULATE) || __GNUC__ >= 12
#define CONVNEXT_FP16
#endif

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
int run_vnni_int8(const Request& request);
int run_amx_int8(const Request& request);
int run_avx2_int8(const Request& request);
int run_avx_vnni_int8(const Request& request);
int run_amx_bf16_half(const Request& request);
int run_amx_int8_half(const Request& request);

// Memory of the calling thread, on a cache line; it stays until the thread asks for more, trims it or
// ends. Null if there is none.
void* thread_memory(int64_t bytes);

// Frees the calling thread's memory if it is more than CONVNEXT_KEPT_BYTES.
void trim_thread_memory();

namespace {

// How many weights a block has, counted through all stages.
inline int64_t weights_of_block(const convnext_call& call, int64_t block) {
  const bool quantised = call.quantised && call.quantised[block];
  return (quantised ? 13 : 6) + (call.grn ? 1 : 0);
}

}  // namespace

}  // namespace convnext
