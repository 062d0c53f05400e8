// A call in the terms of the kernels: sizes of all stages, weights in order, memory.
#pragma once

#include "downsample.h"
#include "grn.h"
#include "quantised_block.h"
#include "sets.h"
#include "stem.h"

namespace convnext {
namespace {

template <class Kernels>
struct StagePlan {
  Index height, width;     // of its maps
  Index channels, padded;  // true, and as maps have them
  Index hidden;            // 4 * channels, padded to panels
  Index depth;
  DownsampleWeights<Kernels> downsample;
  const void* const* blocks;  // weights of the first block; the others follow
  const uint8_t* quantised;   // for each block whether it is; null: none is
  float* output;              // null if not wanted
};

template <class Kernels>
class Plan {
 public:
  using Element = typename Kernels::Element;

  explicit Plan(const Request& request) : request_(request) {
    const convnext_call& call = request.call;
    const void* const* next = request.weights;
    num_stages = call.num_stages;
    images = call.n;
    eps = (float)call.eps;
    grn = call.grn != 0;
    pooled = request.outputs[num_stages];
    stem_shape = {call.stem_kernel,
                  call.stem_stride,
                  call.stem_padding,
                  round_up(call.channels * call.stem_kernel * call.stem_kernel, Kernels::depth_unit),
                  call.dims[0],
                  eps};
    stem_weights = {take<Element>(next), take<float>(next), nullptr, nullptr};
    if (call.stem_norm) {
      stem_weights.norm_weight = take<float>(next);
      stem_weights.norm_bias = take<float>(next);
    }
    Index block = 0;
    for (Index s = 0; s < num_stages; s++) {
      StagePlan<Kernels>& p = stages[s];
      p.height = s ? stages[s - 1].height / 2 : stem_side(call.height);
      p.width = s ? stages[s - 1].width / 2 : stem_side(call.width);
      p.channels = call.dims[s];
      p.padded = round_up(p.channels, Kernels::channel_unit);
      p.hidden = round_up(4 * p.channels, Kernels::panel);
      p.depth = call.depths[s];
      if (s) p.downsample = {take<Element>(next), take<float>(next)};
      p.blocks = next;
      p.quantised = call.quantised ? call.quantised + block : nullptr;
      for (Index b = 0; b < p.depth; b++) next += weights_of_block(call, block++);
      p.output = request.outputs[s];
    }
  }

  // Of the block whose first weight is `next`, which moves on to the following one.
  BlockWeights<Kernels> block_weights(const void* const*& next) const {
    BlockWeights<Kernels> w;
    w.taps = take<float>(next);
    w.taps_bias = take<float>(next);
    w.w1 = take<Element>(next);
    w.b1 = take<float>(next);
    w.grn_gamma = grn ? take<float>(next) : nullptr;
    w.w2 = take<Element>(next);
    w.b2 = take<float>(next);
    return w;
  }

  // Likewise of a quantised block.
  QuantisedWeights<Kernels> quantised_weights(const void* const*& next) const {
    using Integer = typename Kernels::Integers::Element;
    QuantisedWeights<Kernels> w;
    w.taps = take<float>(next);
    w.taps_bias = take<float>(next);
    w.factors = take<float>(next);
    w.first = {take<Integer>(next), take<float>(next), take<float>(next), take<float>(next)};
    w.grn_gamma = grn ? take<float>(next) : nullptr;
    w.hidden_inverse = take<float>(next);
    w.hidden_zero = take<float>(next);
    w.second = {take<Integer>(next), take<float>(next), take<float>(next), take<float>(next)};
    return w;
  }

  Image image(Index i) const {
    const convnext_call& call = request_.call;
    return {request_.input + i * call.stride_n, call.channels, call.height, call.width,
            call.stride_c, call.stride_h, call.stride_w};
  }

  TileSizes tile_sizes() const {
    TileSizes sizes;
    const auto at_least = [](Index& size, Index wanted) { size = larger(size, wanted); };
    at_least(sizes.depth, stem_shape.depth);
    at_least(sizes.mixed_columns, round_up(stem_shape.depth, Kernels::channel_unit));
    for (Index s = 0; s < num_stages; s++) {
      at_least(sizes.depth, s ? 4 * stages[s - 1].padded : 0);
      at_least(sizes.depth, stages[s].padded);
      at_least(sizes.mixed_columns, round_up(stages[s].channels, Kernels::panel));
      at_least(sizes.partial_columns, round_up(stages[s].channels, Kernels::panel));
    }
    return sizes;
  }

  // Whether every stage has positions, and the kernels can do what the weights are for.
  bool sound() const {
    for (Index s = 0; s < num_stages; s++)
      if (stages[s].height < 1 || stages[s].width < 1) return false;
    return has_integers<Kernels> || !request_.call.quantised;
  }

  Index num_stages, images;
  float eps;
  bool grn;
  float* pooled;  // (images, channels of the last stage), null if not wanted
  StemShape stem_shape;
  StemWeights<Kernels> stem_weights;
  StagePlan<Kernels> stages[CONVNEXT_MAX_STAGES];

 private:
  template <class T>
  static const T* take(const void* const*& next) {
    return (const T*)*next++;
  }

  Index stem_side(Index side) const {
    const Index span = side + 2 * stem_shape.padding - stem_shape.kernel;
    return span < 0 ? 0 : span / stem_shape.stride + 1;
  }

  const Request request_;
};

// Maps and GRN buffers of a team that gets up to `images` images.
template <class Kernels>
struct TeamMemory {
  using Stream = typename Kernels::Stream;
  Index group[CONVNEXT_MAX_STAGES] = {};  // images that go through a stage together
  Map<Stream> maps[CONVNEXT_MAX_STAGES][2];
  GrnBuffers<Kernels> grn[CONVNEXT_MAX_STAGES];  // in the same memory: one stage runs at a time

  TeamMemory() = default;

  TeamMemory(Carver& memory, const Plan<Kernels>& plan, Index images, Index members) {
    if (images == 0) return;
    for (Index s = 0; s < plan.num_stages; s++) {
      const StagePlan<Kernels>& p = plan.stages[s];
      const Index fitting = Kernels::group_positions * members / (p.height * p.width);
      group[s] = smaller(larger(fitting, s ? group[s - 1] : 1), images);
      const Index elements = Map<Stream>::elements(group[s], p.height, p.width, p.padded);
      for (Map<Stream>& map : maps[s])
        map = Map<Stream>::place(memory.take<Stream>(elements), p.height, p.width, p.padded);
    }
    if (!plan.grn) return;
    const Carver before = memory;
    for (Index s = 0; s < plan.num_stages; s++) {
      const StagePlan<Kernels>& p = plan.stages[s];
      const Index fitting = Kernels::grn_positions * members / (p.height * p.width);
      Carver here = before;
      grn[s] = {here, smaller(larger(fitting, 1), group[s]), p.height * p.width, p.hidden, members};
      memory.reserve(here.used());
    }
  }
};

}  // namespace
}  // namespace convnext
