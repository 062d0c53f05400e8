// Between stages: LayerNorm (its weight and bias folded into the product), then 2x2 positions become
// one by a product with K = 4 C in order (ky, kx, c).
#pragma once

#include "layer_norm.h"
#include "product.h"
#include "tile.h"

namespace convnext {
namespace {

template <class Kernels>
struct DownsampleWeights {
  const typename Kernels::Element* w;
  const float* bias;
};

template <int Lanes, class Number>
CONVNEXT_INLINE const float* as_floats(const Number* from, Index channels, float* room) {
  for (Index c = 0; c < channels; c += Lanes) store<Lanes>(room + c, load<Lanes>(from + c));
  return room;
}

// Positions of y, counted from its row `map_row`; x has `channels` true channels. An odd last row or
// column of x is left out.
template <class Kernels>
void downsample(const Map<typename Kernels::Stream>& x, Index channels, float eps,
                const DownsampleWeights<Kernels>& w, const Map<typename Kernels::Stream>& y,
                Index map_row, Range range, const Tile<Kernels>& t) {
  constexpr int L = Kernels::lanes;
  const Index depth = 4 * x.channels;
  const Index panels = (y.channels + Kernels::panel - 1) / Kernels::panel;
  const Tiles tiles(range, y.width, Kernels::tile_rows);
  for (Index first = range.first; first < range.last; first += tiles.step) {
    const Index rows = smaller(tiles.step, range.last - first);
    Cursor place(first, y.width);
    for (Index r = 0; r < rows; r++, place.advance(1, y.width)) {
      const Index top = place.row / y.height * x.height + place.row % y.height * 2;
      const float* corners[4];
      for (Index k = 0; k < 4; k++) {
        const auto* from = x.at(top + k / 2, 2 * place.column + k % 2);
        if constexpr (sizeof *from == sizeof(float))
          corners[k] = from;
        else
          corners[k] = as_floats<L>(from, x.channels, t.mixed + k * x.channels);
      }
      Moments moments[4];
      find_moments<L>(corners, channels, eps, moments);
      for (Index k = 0; k < 4; k++)
        normalise_into<Kernels>(corners[k], moments[k], channels, x.channels, t.a, depth, r,
                                k * x.channels);
    }
    t.locate(y, first, rows);
    typename Kernels::Stream* to = y.at(map_row, 0);
    const Product<typename Kernels::Element> product{
        t.a, rows, depth, w.w, depth * Kernels::panel, panels, w.bias, t.passing, true, true};
    Kernels::multiply(product, [=](Index r, Index p, Vec<L>(&v)[2]) __attribute__((always_inline)) {
      const Index c = p * Kernels::panel;
      for (int i = 0; i < 2; i++)
        if (c + i * L < y.channels) store<L>(to + t.offsets[r] + c + i * L, v[i]);
    });
  }
}

}  // namespace
}  // namespace convnext
