// IEEE half precision (fp16): maps in memory, and the sums of a depthwise convolution.
#pragma once

#include <immintrin.h>

#include "vec.h"

namespace convnext {
namespace {

// A number in fp16 in memory.
struct Half {
  uint16_t bits;
};

#if defined(CONVNEXT_EMULATE)

template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> load(const Half* from) {
  Vec<8> parts[Lanes / 8];
  for (int i = 0; i < Lanes / 8; i++)
    parts[i] = (Vec<8>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from + i));
  Vec<Lanes> v;
  __builtin_memcpy(&v, parts, sizeof v);
  return v;
}

template <int Lanes>
CONVNEXT_INLINE void store(Half* to, const Vec<Lanes>& v) {
  Vec<8> parts[Lanes / 8];
  __builtin_memcpy(parts, &v, sizeof v);
  for (int i = 0; i < Lanes / 8; i++)
    _mm_storeu_si128((__m128i*)to + i,
                     _mm256_cvtps_ph((__m256)parts[i], _MM_FROUND_TO_NEAREST_INT));
}

#else

CONVNEXT_INLINE Vec<16> widened(__m256i halves) {
  // Without a mask GCC's header takes an undefined operand, and then warns of it.
  return (Vec<16>)_mm512_maskz_cvtph_ps(0xffff, halves);
}

template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> load(const Half* from) {
  static_assert(Lanes == 16, "whole AVX-512 registers");
  __m256i halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return widened(halves);
}

template <int Lanes>
CONVNEXT_INLINE void store(Half* to, const Vec<Lanes>& v) {
  static_assert(Lanes == 16, "whole AVX-512 registers");
  const __m256i halves =
      _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __builtin_memcpy(to, &halves, sizeof halves);
}

#endif

// What depthwise convolutions are computed in: 32 channels in one register.
struct SumsInFp16 {
  static constexpr int lanes = 32;
  using Tap = Half;

#if defined(CONVNEXT_EMULATE)

  // Numbers of fp16, kept in fp32.
  struct Vector {
    Vec<16> parts[2];
  };

  static CONVNEXT_INLINE Vector read(const Half* from) { return {{load<16>(from), load<16>(from + 16)}}; }

  static CONVNEXT_INLINE void write(Half* to, const Vector& v) {
    store<16>(to, v.parts[0]);
    store<16>(to + 16, v.parts[1]);
  }

  // The product is exact in fp32; the sum is rounded there, and then once more.
  static CONVNEXT_INLINE void add(Vector& sum, const Vector& a, const Vector& b) {
    for (int i = 0; i < 2; i++) sum.parts[i] = rounded(sum.parts[i] + a.parts[i] * b.parts[i]);
  }

  static CONVNEXT_INLINE Vector read_floats(const float* from) {
    return {{rounded(load<16>(from)), rounded(load<16>(from + 16))}};
  }

  static CONVNEXT_INLINE void write_floats(float* to, const Vector& v) {
    store<16>(to, v.parts[0]);
    store<16>(to + 16, v.parts[1]);
  }

  // Not inlined: emulated vectors are long, and this is used in many places.
  __attribute__((noinline)) static Vec<16> rounded(Vec<16> v) {
    Half halves[16];
    store<16>(halves, v);
    return load<16>(halves);
  }

#else

  using Vector = __m512h;

  static CONVNEXT_INLINE Vector read(const Half* from) { return _mm512_loadu_ph(from); }
  static CONVNEXT_INLINE void write(Half* to, const Vector& v) { _mm512_storeu_ph(to, v); }

  static CONVNEXT_INLINE void add(Vector& sum, const Vector& a, const Vector& b) {
    sum = _mm512_fmadd_ph(a, b, sum);
  }

  static CONVNEXT_INLINE Vector read_floats(const float* from) {
    Half halves[lanes];
    store<16>(halves, load<16>(from));
    store<16>(halves + 16, load<16>(from + 16));
    return read(halves);
  }

  // Through memory GCC would keep the sums there in the whole loop.
  static CONVNEXT_INLINE void write_floats(float* to, const Vector& v) {
    store<16>(to, widened(_mm512_maskz_extracti64x4_epi64(0xff, (__m512i)v, 0)));
    store<16>(to + 16, widened(_mm512_maskz_extracti64x4_epi64(0xff, (__m512i)v, 1)));
  }

#endif
};

}  // namespace
}  // namespace convnext
