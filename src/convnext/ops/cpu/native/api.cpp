// Entry of the library: checks a call and hands it to its set of kernels.
#include "api.h"

#include <stdlib.h>

#include "sets.h"

namespace convnext {
namespace {

struct Set {
  uint64_t needs;
  int (*run)(const Request&);
};

constexpr Set kSets[] = {
    {FEATURE_AVX2, run_avx2_fp32},
    {FEATURE_AVX2 | FEATURE_AVX512, run_avx512_fp32},
    {FEATURE_AVX2 | FEATURE_AVX512 | FEATURE_AVX512_BF16, run_avx512_bf16},
    {FEATURE_AVX2 | FEATURE_AVX512 | FEATURE_AVX512_BF16 | FEATURE_AMX_BF16, run_amx_bf16},
    {FEATURE_AVX2 | FEATURE_AVX512 | FEATURE_AVX512_VNNI, run_vnni_int8},
    {FEATURE_AVX2 | FEATURE_AVX512 | FEATURE_AVX512_BF16 | FEATURE_AMX_BF16 | FEATURE_AMX_INT8,
     run_amx_int8},
    {FEATURE_AVX2, run_avx2_int8},
    {FEATURE_AVX2 | FEATURE_AVX_VNNI, run_avx_vnni_int8},
    {FEATURE_AVX2 | FEATURE_AVX512 | FEATURE_AVX512_BF16 | FEATURE_AVX512_FP16 | FEATURE_AMX_BF16,
     run_amx_bf16_half},
    {FEATURE_AVX2 | FEATURE_AVX512 | FEATURE_AVX512_BF16 | FEATURE_AVX512_FP16 | FEATURE_AMX_BF16 |
         FEATURE_AMX_INT8,
     run_amx_int8_half},
};
constexpr int64_t kNumSets = sizeof kSets / sizeof kSets[0];

class ThreadMemory {
 public:
  ~ThreadMemory() { free(memory_); }

  void* at_least(int64_t bytes) {
    if (bytes <= bytes_) return memory_;
    keep_at_most(0);
    const size_t whole_lines = ((size_t)bytes + 63) / 64 * 64;
    memory_ = aligned_alloc(64, whole_lines);
    if (memory_) bytes_ = (int64_t)whole_lines;
    return memory_;
  }

  void keep_at_most(int64_t bytes) {
    if (bytes_ <= bytes) return;
    free(memory_);
    memory_ = nullptr;
    bytes_ = 0;
  }

 private:
  void* memory_ = nullptr;
  int64_t bytes_ = 0;
};

thread_local ThreadMemory memory_of_thread;

bool sane(const convnext_call& call) {
  const auto within = [](int64_t x, int64_t low, int64_t high) { return x >= low && x <= high; };
  // far beyond any memory, and sizes in bytes still fit 64 bits
  constexpr int64_t side = 1 << 24, area = (int64_t)1 << 36, width = 1 << 16;
  bool good = call.version == 2 && within(call.num_stages, 1, CONVNEXT_MAX_STAGES);
  if (!good) return false;
  good = within(call.threads, 1, 4096) && within(call.n, 0, area) &&
         within(call.channels, 1, width);
  good = good && within(call.height, 1, side) && within(call.width, 1, side) &&
         call.height * call.width <= area;
  good = good && within(call.stem_kernel, 1, 1024) && within(call.stem_stride, 1, 1024) &&
         within(call.stem_padding, 0, call.stem_kernel);
  for (int64_t s = 0; s < call.num_stages; s++)
    good = good && within(call.depths[s], 0, 1 << 16) && within(call.dims[s], 1, width);
  return good;
}

// Of a call that is sane.
int64_t count_weights(const convnext_call& call) {
  int64_t count = call.stem_norm ? 4 : 2, block = 0;
  for (int64_t s = 0; s < call.num_stages; s++) {
    if (s) count += 2;
    for (int64_t b = 0; b < call.depths[s]; b++, block++)
      count += weights_of_block(call, block);
  }
  return count;
}

// Whether all that is read is there.
bool complete(const Request& request) {
  if (!request.input && request.call.n) return false;
  if (request.num_weights != count_weights(request.call)) return false;
  for (int64_t i = 0; i < request.num_weights; i++)
    if (!request.weights[i]) return false;
  return true;
}

}  // namespace

void* thread_memory(int64_t bytes) { return memory_of_thread.at_least(bytes); }

void trim_thread_memory() { memory_of_thread.keep_at_most(CONVNEXT_KEPT_BYTES); }

}  // namespace convnext

extern "C" int convnext_run(const convnext_call* call, const float* input,
                            const void* const* weights, int64_t num_weights, float* const* outputs,
                            double* profile) {
  using namespace convnext;
  if (!call || !weights || !outputs || !sane(*call)) return STATUS_MALFORMED;
  if (call->kernels < 0 || call->kernels >= kNumSets) return STATUS_UNAVAILABLE;
  const Set& set = kSets[call->kernels];
  if ((convnext_cpu_features() & set.needs) != set.needs) return STATUS_UNAVAILABLE;
  const Request request{*call, input, weights, num_weights, outputs, profile};
  return complete(request) ? set.run(request) : STATUS_MALFORMED;
}
