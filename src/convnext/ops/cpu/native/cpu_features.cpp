// What this CPU can do and the operating system allows.
#include "sets.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

struct Registers {
  unsigned a, b, c, d;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r = {0, 0, 0, 0};
  if (!__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d)) return {0, 0, 0, 0};
  return r;
}

bool bit(unsigned word, int number) { return word >> number & 1; }

// Registers that the operating system saves when it switches threads.
uint64_t enabled_state() {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

// Tile registers are large, so Linux gives them only to processes that ask.
bool tiles_granted() {
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

uint64_t detect() {
  const Registers first = cpuid(1, 0), seventh = cpuid(7, 0), second = cpuid(7, 1);
  if (!bit(first.c, 27)) return 0;  // the state below cannot be read
  const uint64_t state = enabled_state();
  const auto saves = [&](uint64_t bits) { return (state & bits) == bits; };
  uint64_t features = 0;
  if (!saves(0x6) || !bit(seventh.b, 5) || !bit(first.c, 12)) return 0;
  features |= FEATURE_AVX2;
  if (bit(second.a, 4)) features |= FEATURE_AVX_VNNI;
  const bool avx512 =
      bit(seventh.b, 16) && bit(seventh.b, 17) && bit(seventh.b, 30) && bit(seventh.b, 31);
  if (!saves(0xe6) || !avx512) return features;
  features |= FEATURE_AVX512;
  if (bit(second.a, 5)) features |= FEATURE_AVX512_BF16;
  if (bit(seventh.c, 11)) features |= FEATURE_AVX512_VNNI;
#if defined(CONVNEXT_FP16)
  if (bit(seventh.d, 23)) features |= FEATURE_AVX512_FP16;
#endif
  const bool bf16 = bit(seventh.d, 22), int8 = bit(seventh.d, 25);
  const bool tiles = saves(0x60000) && bit(seventh.d, 24) && (bf16 || int8);
  if (!tiles || !tiles_granted()) return features;
  if (bf16) features |= FEATURE_AMX_BF16;
  if (int8) features |= FEATURE_AMX_INT8;
  return features;
}

}  // namespace

extern "C" uint64_t convnext_cpu_features(void) {
  static const uint64_t features = detect();
#if defined(CONVNEXT_EMULATE)
  // every set is then compiled for AVX2
  return features & FEATURE_AVX2 ? 0xff : 0;
#else
  return features;
#endif
}
