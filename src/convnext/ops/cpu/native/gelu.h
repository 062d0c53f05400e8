// GELU(x) = x * Phi(x), exact: Phi(x) = 1/2 + x P(x^2) / Q(x^2), fitted by tools/fit_gelu.py.
#pragma once

#include "vec.h"

namespace convnext {
namespace {

// Error at most 2.2e-7 max(1, |x|); beyond the limit exactly 0 or x. NaN stays NaN.
template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> gelu(const Vec<Lanes>& x) {
  constexpr float limit = 5.2f;
  const Vec<Lanes> u = x * x;
  Vec<Lanes> p = broadcast<Lanes>(1.267958713e-10f);
  p = p * u - 2.287771664e-08f;
  p = p * u + 2.954124368e-06f;
  p = p * u + 1.379436111e-04f;
  p = p * u + 4.298405342e-03f;
  p = p * u + 3.265125341e-02f;
  p = p * u + 3.989422156e-01f;
  Vec<Lanes> q = broadcast<Lanes>(5.211107818e-05f);
  q = q * u + 1.639705032e-03f;
  q = q * u + 2.719507497e-02f;
  q = q * u + 2.485101015e-01f;
  q = q * u + 1.0f;
  Vec<Lanes> phi = x * (p / q) + 0.5f;
  phi = x > broadcast<Lanes>(-limit) ? phi : Vec<Lanes>{};
  phi = x < broadcast<Lanes>(limit) ? phi : broadcast<Lanes>(1.0f);
  return x * phi;
}

}  // namespace
}  // namespace convnext
