// A block with global response normalisation (V2). The norm is over all positions of an image, so the
// hidden map of some images is stored whole between the two products:
//
//   hidden = GELU(A @ W1 + b1), its squares summed                                      | barrier
//   G = sqrt(sums), scale = 1 + gamma G / (mean over channels of G + eps)               | barrier
//   y = x + b2 + (hidden * scale) @ W2            (GRN's own bias is folded into b2)
#pragma once

#include "block.h"
#include "team.h"

namespace convnext {
namespace {

constexpr float kGrnEps = 1e-6f;

// Shared by a team, for up to `images` images of `positions` positions.
template <class Kernels>
struct GrnBuffers {
  using Element = typename Kernels::Element;
  Index images, hidden;
  Index member_size;  // of the part of `maps` that one member fills
  Element* maps;      // (members, member_size): operands, one for each tile
  float* squares;     // (members, images, hidden)
  float* scale;       // (images, hidden)

  GrnBuffers() = default;

  GrnBuffers(Carver& memory, Index images, Index positions, Index hidden, Index members)
      : images(images), hidden(hidden) {
    const Index rows = images * positions / members + 1;
    const Index tiles = 2 * rows / Kernels::tile_rows + 2 * images + 1;
    const Index padded = round_up(rows + tiles * Kernels::row_unit, Kernels::row_unit);
    member_size = Kernels::operand_size(padded, hidden);
    maps = memory.take<Element>(members * member_size);
    squares = memory.take<float>(members * images * hidden);
    scale = memory.take<float>(images * hidden);
  }
};

// This member's tiles of images [0, images) counted from `image`: visit(image in 0.., first, rows,
// operand of that tile in the buffers).
template <class Kernels, class Visit>
void each_tile(const BlockTask<Kernels>& task, Index image, Index images, const Member& member,
               const GrnBuffers<Kernels>& buffers, const Visit& visit) {
  const Index positions = task.x.height * task.x.width;
  const Range mine = share(images * positions, member.index, member.count);
  auto* operand = buffers.maps + member.index * buffers.member_size;
  for (Index i = 0; i < images; i++) {
    const Range range{larger(mine.first, i * positions), smaller(mine.last, (i + 1) * positions)};
    if (range.first >= range.last) continue;
    const Tiles tiles(range, task.x.width, Kernels::tile_rows);
    for (Index first = range.first; first < range.last; first += tiles.step) {
      const Index rows = smaller(tiles.step, range.last - first);
      visit(i, image * positions + first, rows, operand);
      operand += Kernels::operand_size(round_up(rows, Kernels::row_unit), task.hidden);
    }
  }
}

// All hidden columns of a tile; adds their squares to `squares`.
template <class Kernels, class Weights>
void expand_and_measure(const BlockTask<Kernels>& task, const Weights& w, Index rows,
                        const Tile<Kernels>& t, typename Kernels::Element* hidden, float* squares) {
  constexpr int L = Kernels::lanes;
  const auto finish = [=](Index r, Index p, Vec<L>(&v)[2]) __attribute__((always_inline)) {
    for (int i = 0; i < 2; i++) {
      v[i] = Kernels::gelu(v[i]);
      float* sum = squares + p * Kernels::panel + i * L;
      store<L>(sum, load<L>(sum) + v[i] * v[i]);
    }
    Kernels::template put<2>(hidden, task.hidden, r, p * Kernels::panel, v);
  };
  first_product(task, w, rows, 0, task.hidden, t, finish);
}

// From the squares of all members, in their order, the scale of one image's hidden channels.
template <class Kernels>
void response_scale(const GrnBuffers<Kernels>& buffers, Index image, Index members,
                    Index true_hidden, const float* gamma) {
  const Index hidden = buffers.hidden;
  float* scale = buffers.scale + image * hidden;
  float mean = 0;
  for (Index c = 0; c < hidden; c++) {
    float sum = 0;
    for (Index m = 0; m < members; m++)
      sum += buffers.squares[(m * buffers.images + image) * hidden + c];
    scale[c] = __builtin_sqrtf(sum);
    mean += scale[c];
  }
  mean /= (float)true_hidden;
  for (Index c = 0; c < hidden; c++) scale[c] = 1 + gamma[c] * scale[c] / (mean + kGrnEps);
}

// Whether rows have NaN is remembered only where their numbers cannot tell.
template <class Kernels>
CONVNEXT_INLINE void note_nan(const BlockWeights<Kernels>&, const float*, Index, Index,
                              const Tile<Kernels>&) {}

// Columns [begin, begin + columns) of a tile's hidden operand, scaled, as t.hidden.
template <class Kernels, class Weights>
void rescale(const Weights& w, const typename Kernels::Element* hidden, Index depth,
             const float* scale, Index rows, Index begin, Index columns, const Tile<Kernels>& t) {
  constexpr int L = Kernels::lanes;
  for (Index r = 0; r < rows; r++)
    for (Index c = 0; c < columns; c += Kernels::panel) {
      Vec<L> v[2];
      Kernels::template get<2>(hidden, depth, r, begin + c, v);
      v[0] *= load<L>(scale + begin + c);
      v[1] *= load<L>(scale + begin + c + L);
      put_hidden(w, t, begin, columns, r, c, v);
    }
}

// Images [0, images) of the map; the whole team calls it.
template <class Kernels, class Weights>
void grn_block(const BlockTask<Kernels>& task, const Weights& w, Index images, const Member& member,
               const GrnBuffers<Kernels>& buffers, const Tile<Kernels>& t, Clock& clock) {
  using Element = typename Kernels::Element;
  const Slices slices(task.hidden, Weights::slice_unit, Weights::slice);
  for (Index image = 0; image < images; image += buffers.images) {
    const Index count = smaller(buffers.images, images - image);
    float* squares = buffers.squares + member.index * buffers.images * task.hidden;
    __builtin_memset(squares, 0, count * task.hidden * sizeof(float));
    const auto first_pass = [&](Index i, Index first, Index rows, Element* hidden) {
      mix(task, w, first, rows, t, clock);
      expand_and_measure(task, w, rows, t, hidden, squares + i * task.hidden);
      clock.lap(PART_EXPAND);
    };
    each_tile(task, image, count, member, buffers, first_pass);
    member.wait();
    clock.resume();
    for (Index i = member.index; i < count; i += member.count)
      response_scale(buffers, i, member.count, 4 * task.channels, w.grn_gamma);
    clock.lap(PART_GRN);
    member.wait();
    clock.resume();
    const auto second_pass = [&](Index i, Index first, Index rows, Element* hidden) {
      const float* scale = buffers.scale + i * task.hidden;
      t.locate(task.x, first, rows);
      note_nan(w, scale, task.hidden, rows, t);
      for (Index s = 0; s < slices.count; s++) {
        const Index begin = slices[s].first, columns = slices[s].last - begin;
        rescale(w, hidden, task.hidden, scale, rows, begin, columns, t);
        clock.lap(PART_GRN);
        reduce(task, w, rows, begin, columns, t);
        clock.lap(PART_REDUCE);
      }
    };
    each_tile(task, image, count, member, buffers, second_pass);
  }
}

}  // namespace
}  // namespace convnext
