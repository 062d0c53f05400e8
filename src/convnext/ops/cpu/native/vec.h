// Vectors of fp32 lanes in the compiler's own vector types: 8 lanes are one AVX2 register, 16 one of
// AVX-512. The same source compiles for any target; the compiler splits what the target lacks.
//
// Everything in the kernel headers lies in anonymous namespaces: each translation unit compiles them
// for its own instruction set, and the linker must never take one's copy for another's.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define CONVNEXT_INLINE inline __attribute__((always_inline))

// What must hold of every index; checked in the builds of the tests.
#ifdef CONVNEXT_EMULATE
#define CONVNEXT_CHECK(condition) ((condition) ? (void)0 : __builtin_trap())
#else
#define CONVNEXT_CHECK(condition) ((void)0)
#endif

namespace convnext {
namespace {

using Index = int64_t;

// A bfloat16 in memory: the upper half of an fp32. It is loaded and stored in bf16.h.
struct Bf16 {
  uint16_t bits;
};

template <int Lanes>
struct VecTypes {
  typedef float Floats __attribute__((vector_size(4 * Lanes)));
  typedef int32_t Ints __attribute__((vector_size(4 * Lanes)));
  typedef uint32_t Words __attribute__((vector_size(4 * Lanes)));
  typedef uint16_t Halves __attribute__((vector_size(2 * Lanes)));
};

template <int Lanes>
using Vec = typename VecTypes<Lanes>::Floats;

template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> broadcast(float x) {
  return x - Vec<Lanes>{};
}

template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> load(const float* from) {
  Vec<Lanes> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <int Lanes>
CONVNEXT_INLINE void store(float* to, const Vec<Lanes>& v) {
  __builtin_memcpy(to, &v, sizeof v);
}

// 32 bits a lane, whatever they hold.
template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> load_words(const void* from) {
  Vec<Lanes> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

// One word in every lane; as an integer, for an fp32 operation could change a pair of bf16.
template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> broadcast_word(const void* from) {
  int32_t word;
  __builtin_memcpy(&word, from, sizeof word);
  return (Vec<Lanes>)(word + typename VecTypes<Lanes>::Ints{});
}

template <int Lanes>
CONVNEXT_INLINE float sum(const Vec<Lanes>& v) {
  if constexpr (Lanes == 4) {
    return (v[0] + v[1]) + (v[2] + v[3]);
  } else {
    Vec<Lanes / 2> half[2];
    __builtin_memcpy(half, &v, sizeof v);
    return sum<Lanes / 2>(half[0] + half[1]);
  }
}

// The first `count` lanes of v, zero in the others.
template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> keep_first(const Vec<Lanes>& v, Index count) {
  typename VecTypes<Lanes>::Ints lane;
  for (int i = 0; i < Lanes; i++) lane[i] = i;
  return lane < (int32_t)count ? v : Vec<Lanes>{};
}

CONVNEXT_INLINE Index round_up(Index x, Index multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

CONVNEXT_INLINE Index smaller(Index a, Index b) { return a < b ? a : b; }
CONVNEXT_INLINE Index larger(Index a, Index b) { return a < b ? b : a; }

}  // namespace
}  // namespace convnext
