// Depthwise 7x7 convolution of some positions of a map, in fp32.
#pragma once

#include "map.h"

namespace convnext {
namespace {

constexpr int kTaps = 7;

// `Run` neighbouring positions of one row, one vector of channels. The 7 weights of a kernel row and
// the sums stay in registers, so that an input vector is read once for the 7 sums it belongs to:
// 7 + Run + 6 reads for 7 * Run multiplications.
template <class Kernels, int Run>
void depthwise_run(const typename Kernels::Stream* x, Index pitch, Index pixel, Index first_tap,
                   Index last_tap, const float* weight, Index channels, const float* bias, float* out,
                   Index out_stride) {
  constexpr int L = Kernels::lanes;
  Vec<L> sums[Run];
#pragma GCC unroll 16
  for (int i = 0; i < Run; i++) sums[i] = load<L>(bias);
  for (Index ky = first_tap; ky < last_tap; ky++) {
    const typename Kernels::Stream* from = x + (ky - kReach) * pitch - kReach * pixel;
    Vec<L> taps[kTaps];
#pragma GCC unroll 16
    for (int kx = 0; kx < kTaps; kx++) taps[kx] = load<L>(weight + (ky * kTaps + kx) * channels);
#pragma GCC unroll 32
    for (int j = 0; j < Run + kTaps - 1; j++) {
      const Vec<L> value = load<L>(from);
      from += pixel;
#pragma GCC unroll 16
      for (int i = 0; i < Run; i++)
        if (j - i >= 0 && j - i < kTaps) sums[i] += value * taps[j - i];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Run; i++) store<L>(out + i * out_stride, sums[i]);
}

// As above for a length known at run time, 1 to Run.
template <class Kernels, int Run, class... Arguments>
CONVNEXT_INLINE void depthwise_any_run(Index length, Arguments... arguments) {
  if constexpr (Run > 1) {
    if (length < Run) return depthwise_any_run<Kernels, Run - 1>(length, arguments...);
  }
  depthwise_run<Kernels, Run>(arguments...);
}

// Positions [first, first + rows) into out (rows, stride). Channels are the outer loop: of one vector
// of channels the weights and the 7 rows of a window stay in the first-level cache.
template <class Kernels>
void depthwise(const Map<typename Kernels::Stream>& x, Index first, Index rows, const float* weight,
               const float* bias, float* out, Index stride) {
  for (Index c = 0; c < x.channels; c += Kernels::lanes) {
    Cursor place(first, x.width);
    for (Index done = 0; done < rows;) {
      const Index length =
          smaller(Kernels::run, smaller(rows - done, x.width - place.column));
      const Index y = place.row % x.height;
      const Index first_tap = larger(0, kReach - y);
      const Index last_tap = smaller(kTaps, x.height + kReach - y);
      depthwise_any_run<Kernels, Kernels::run>(length, x.at(place.row, place.column) + c, x.pitch(),
                                               x.pixel, first_tap, last_tap, weight + c, x.channels,
                                               bias + c, out + done * stride + c, stride);
      place.advance(length, x.width);
      done += length;
    }
  }
}

}  // namespace
}  // namespace convnext
