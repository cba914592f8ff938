// Arrays [row dims ..., classes] of any strides, as the kernels' row views.
#pragma once

#include "../../../csrc/common/rows.h"
#include "bind.h"

inline kd::RowView view_of(const py::array& x) {
  kd::RowView view = {};
  view.data = const_cast<void*>(x.data());
  view.dtype = dtype_of(x);
  const int last = static_cast<int>(x.ndim()) - 1;
  view.class_stride = x.strides(last) / x.itemsize();
  for (int d = 0; d < last; ++d) view.row_stride[d] = x.strides(d) / x.itemsize();
  return view;
}

inline kd::RowShape shape_of(const py::array& x) {
  kd::RowShape shape = {};
  const int last = static_cast<int>(x.ndim()) - 1;
  shape.rows = 1;
  shape.classes = x.shape(last);
  shape.dims = last > 0 ? last : 1;
  shape.size[0] = 1;
  for (int d = 0; d < last; ++d) shape.rows *= shape.size[d] = x.shape(d);
  return shape;
}
