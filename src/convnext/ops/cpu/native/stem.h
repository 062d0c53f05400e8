// The stem: convolution of the image as a product of gathered patches, then LayerNorm if it has one.
#pragma once

#include "layer_norm.h"
#include "product.h"
#include "tile.h"

namespace convnext {
namespace {

// fp32, any strides.
struct Image {
  const float* data;
  Index channels, height, width;
  Index stride_c, stride_h, stride_w;
};

struct StemShape {
  Index kernel, stride, padding;
  Index depth;     // channels * kernel * kernel, padded to the depth unit
  Index channels;  // true ones of the result
  float eps;
};

template <class Kernels>
struct StemWeights {
  const typename Kernels::Element* w;
  const float *bias, *norm_weight, *norm_bias;  // the last two null without norm
};

// A patch of an image whose rows are dense, none of it outside. Most kernels have a width of 4, which
// is one register.
inline void copy_patch(const Image& image, Index kernel, const float* corner, float* to) {
  for (Index c = 0; c < image.channels; c++)
    for (Index y = 0; y < kernel; y++, to += kernel) {
      const float* from = corner + c * image.stride_c + y * image.stride_h;
      if (kernel == 4)
        __builtin_memcpy(to, from, 4 * sizeof(float));
      else
        __builtin_memcpy(to, from, kernel * sizeof(float));
    }
}

// The patch of one position in order (ci, ky, kx), zeros where the image ends.
inline void gather(const Image& image, const StemShape& shape, Index row, Index column, float* to) {
  const Index y0 = row * shape.stride - shape.padding, x0 = column * shape.stride - shape.padding;
  const bool inside = y0 >= 0 && x0 >= 0 && y0 + shape.kernel <= image.height &&
                      x0 + shape.kernel <= image.width;
  if (inside && image.stride_w == 1)
    return copy_patch(image, shape.kernel, image.data + y0 * image.stride_h + x0, to);
  for (Index c = 0; c < image.channels; c++)
    for (Index y = y0; y < y0 + shape.kernel; y++) {
      const float* from = image.data + c * image.stride_c + y * image.stride_h;
      for (Index x = x0; x < x0 + shape.kernel; x++) {
        const bool there = inside || (y >= 0 && x >= 0 && y < image.height && x < image.width);
        *to++ = there ? from[x * image.stride_w] : 0.0f;
      }
    }
}

// One row of the product, or what LayerNorm makes of it, to its place in the map.
template <class Kernels>
CONVNEXT_INLINE void write_row(const float* row, Index padded, typename Kernels::Stream* to) {
  constexpr int L = Kernels::lanes;
  for (Index c = 0; c < padded; c += L) store<L>(to + c, load<L>(row + c));
}

template <class Kernels>
CONVNEXT_INLINE void write_normalised(const float* row, Moments m, Index channels,
                                      const StemWeights<Kernels>& w, Index padded,
                                      typename Kernels::Stream* to) {
  constexpr int L = Kernels::lanes;
  const float *weight = w.norm_weight, *bias = w.norm_bias;
  for (Index c = 0; c < padded; c += L)
    store<L>(to + c, normalised<L>(row, c, channels, m) * load<L>(weight + c) + load<L>(bias + c));
}

// Positions of one image; its map starts at `map_row` of y.
template <class Kernels>
void stem(const Image& image, const StemShape& shape, const StemWeights<Kernels>& w,
          const Map<typename Kernels::Stream>& y, Index map_row, Range range, const Tile<Kernels>& t) {
  constexpr int L = Kernels::lanes, N = Kernels::channel_unit / L;
  const Index panels = (y.channels + Kernels::panel - 1) / Kernels::panel;
  const Index stride = Tile<Kernels>::mixed_stride(panels * Kernels::panel);
  const Index gathered = image.channels * shape.kernel * shape.kernel;
  const Index columns = round_up(shape.depth, Kernels::channel_unit);
  for (Index first = range.first; first < range.last; first += Kernels::tile_rows) {
    const Index rows = smaller(Kernels::tile_rows, range.last - first);
    Cursor from(first, y.width);
    for (Index c = gathered; c < columns; c++) t.mixed[c] = 0;
    for (Index r = 0; r < rows; r++, from.advance(1, y.width)) {
      gather(image, shape, from.row, from.column, t.mixed);
      for (Index c = 0; c < columns; c += N * L) {
        Vec<L> values[N];
        for (int i = 0; i < N; i++) values[i] = load<L>(t.mixed + c + i * L);
        Kernels::template put<N>(t.a, shape.depth, r, c, values);
      }
    }
    const Product<typename Kernels::Element> product{
        t.a, rows, shape.depth, w.w, shape.depth * Kernels::panel, panels, w.bias, t.passing, true, true};
    Kernels::multiply(product, [=](Index r, Index p, Vec<L>(&v)[2]) __attribute__((always_inline)) {
      for (int i = 0; i < 2; i++) store<L>(t.mixed + r * stride + p * Kernels::panel + i * L, v[i]);
    });
    Cursor place(first, y.width);
    const auto next = [&]() __attribute__((always_inline)) {
      auto* to = y.at(map_row + place.row, place.column);
      place.advance(1, y.width);
      return to;
    };
    const auto write = [&](Index, const float* row, Moments m) __attribute__((always_inline)) {
      write_normalised<Kernels>(row, m, shape.channels, w, y.channels, next());
    };
    if (w.norm_weight)
      each_row<L>(t.mixed, stride, rows, shape.channels, shape.eps, write);
    else
      for (Index r = 0; r < rows; r++) write_row<Kernels>(t.mixed + r * stride, y.channels, next());
  }
}

}  // namespace
}  // namespace convnext
