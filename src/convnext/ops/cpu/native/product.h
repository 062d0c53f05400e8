// The matrix product that all kernels share, as a request; how it runs is a matter of the kernels.
#pragma once

#include "vec.h"

namespace convnext {
namespace {

// For each panel p and row r:  v = sum over k of a(r, k) * w(p; k, :) + start, where start is the
// bias of the panel if `begin`, else partial(r, p). Then finish(r, p, v) if `end`, else v becomes
// partial(r, p). So a long inner dimension may come in several requests.
template <class Element>
struct Product {
  const Element* a;  // operand (rows, depth)
  Index rows, depth;
  const Element* weights;  // first panel, at the first k of this request
  Index panel_stride;      // from one panel to the next, in elements
  Index panels;
  const float* bias;  // (panels, panel columns)
  float* partial;  // memory for (rows up to the row unit, panels, panel columns); of only one panel
                   // in requests that both begin and end
  bool begin, end;
};

}  // namespace
}  // namespace convnext
