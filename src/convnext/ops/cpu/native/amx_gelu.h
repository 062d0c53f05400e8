// GELU for results that are rounded to bf16: four floating-point operations and three permutes.
//
// While the tile unit works, one floating-point vector operation issues in a cycle, but permutes
// issue beside it. So a polynomial of low degree, its coefficients looked up in registers, costs
// half of one polynomial for all x: x Phi(x) = c0 + c1 x + c2 x^2 on each interval of width
// 1 / scale around i / scale, |i| < 7, and 0 or x beyond. Largest error 6.1e-4; 0 at 0.
// Coefficients: tools/fit_gelu_segments.py. Interval i is entry i modulo 16, which is what the
// permute takes of an integer.
#pragma once

#ifndef CONVNEXT_EMULATE
#include <immintrin.h>
#endif

#include "vec.h"

namespace convnext {
namespace {

constexpr float kSegmentScale = 1.81f;
alignas(64) constexpr float kSegments[3][16] = {
   {0.0f, -0.0130898451f, -0.151427289f, -0.369469366f,
    -0.410968019f, -0.260418048f, -0.103613255f, 0.0f,
    0.0f, 0.0f, -0.103613255f, -0.260418048f,
    -0.410968019f, -0.369469366f, -0.151427289f, -0.0130898451f},
   {0.5f, 0.574584471f, 0.906318099f, 1.23165127f,
    1.28104975f, 1.16056887f, 1.05625762f, 1.0f,
    0.0f, 0.0f, -0.05625762f, -0.160568865f,
    -0.281049747f, -0.231651273f, 0.0936819005f, 0.425415529f},
   {0.394782539f, 0.287560133f, 0.0869727381f, -0.0346792436f,
    -0.0491628191f, -0.025037565f, -0.00767979292f, 0.0f,
    0.0f, 0.0f, -0.00767979292f, -0.025037565f,
    -0.0491628191f, -0.0346792436f, 0.0869727381f, 0.287560133f}};

#ifndef CONVNEXT_EMULATE

CONVNEXT_INLINE Vec<16> pick(const float (&table)[16], VecTypes<16>::Ints index) {
  // Without a mask GCC's header takes an undefined operand, and then warns of it.
  return (Vec<16>)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)index, _mm512_load_ps(table));
}

CONVNEXT_INLINE Vec<16> limit(Vec<16> x, float largest) {
  constexpr int smaller_magnitude_sign_of_first = 2;
  return (Vec<16>)_mm512_range_ps((__m512)x, _mm512_set1_ps(largest),
                                  smaller_magnitude_sign_of_first);
}

#else

// Not inlined: lane by lane it is long, and used in many places.
__attribute__((noinline)) inline Vec<16> pick(const float (&table)[16],
                                              VecTypes<16>::Ints index) {
  Vec<16> picked;
  for (int lane = 0; lane < 16; lane++) picked[lane] = table[index[lane] & 15];
  return picked;
}

CONVNEXT_INLINE Vec<16> limit(Vec<16> x, float largest) {
  const Vec<16> top = x < largest ? x : broadcast<16>(largest);
  return top > -largest ? top : broadcast<16>(-largest);
}

#endif

// NaN stays NaN, whatever interval it falls in; infinities become infinity and, as in PyTorch, NaN.
CONVNEXT_INLINE Vec<16> gelu_segments(Vec<16> x) {
  const Vec<16> near = limit(x, 7 / kSegmentScale);  // x itself, but where c2 is 0
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const Vec<16> shifted = near * kSegmentScale + 12582912.0f;
  const VecTypes<16>::Ints index = (VecTypes<16>::Ints)shifted;
  return (pick(kSegments[2], index) * near + pick(kSegments[1], index)) * x +
         pick(kSegments[0], index);
}

}  // namespace
}  // namespace convnext
