// One step of an inner product on 32-bit words, of two 8-bit integers in each lane, kept in 16 bits: what
// AVX2 has without VNNI. Half as many are multiplied at a time as with VNNI, twice as many as of fp32.
//
// vpmaddubsw would take 8 bits as they are, but its sums of 16 bits overflow.
#pragma once

#include "vec.h"

namespace convnext {
namespace {

struct DotInt16 {
  using Element = int16_t;
  static constexpr int group = 2;

  // The low half of each word.
  template <int Lanes>
  static CONVNEXT_INLINE void write(int16_t* to, const Vec<Lanes>& words) {
    const auto halves =
        __builtin_convertvector((typename VecTypes<Lanes>::Words)words, typename VecTypes<Lanes>::Halves);
    __builtin_memcpy(to, &halves, sizeof halves);
  }

  template <int Lanes>
  static CONVNEXT_INLINE Vec<Lanes> step(const Vec<Lanes>& sum, const Vec<Lanes>& a,
                                         const Vec<Lanes>& b) {
    static_assert(Lanes == 8, "vpmaddwd here takes whole AVX2 registers");
    // As assembly, so that each product is added at once: GCC would make all products of a step first,
    // and spill the sums.
    Vec<Lanes> total = sum, product;
    __asm__("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(total), "=&x"(product) : "x"(b), "x"(a));
    return total;
  }
};

}  // namespace
}  // namespace convnext
