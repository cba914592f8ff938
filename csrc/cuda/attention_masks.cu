// attention_masks on the GPU in plain arithmetic (the Triton form has the tensor cores). A block takes 64
// queries (32 in double) and walks the keys, or 64 keys and walks the queries; what it sums up is its own, so
// that nothing is added by two blocks.
#include "attention.cuh"

namespace kd {
namespace {

// Block -> image, tile of positions, chunk of channels.
struct Place {
  int64_t b, first, chunk;
};

template <class A>
KD_DEVICE Place place_of(int64_t positions, int64_t chunks) {
  const int64_t tiles = (positions + kTile<A> - 1) / kTile<A>, block = blockIdx.x;
  return {block / chunks / tiles, block / chunks % tiles * kTile<A>, block % chunks};
}

KD_FN int64_t chunks_of(int64_t channels, int width) { return (channels + width - 1) / width; }

// Rows of A in a softmax that goes along: largest logit, sum, and outputs scaled to them.
template <int kChannels, class A>
__global__ void __launch_bounds__(kTileThreads) attention_forward(AttentionMasksArgs args) {
  constexpr int kWidth = kSide * kChannels;
  KD_SHARED(A, weight, kTile<A> * kTileStride<A>);
  const Place place = place_of<A>(args.queries, chunks_of(args.masks, kWidth));
  const Operand queries = queries_of(args, place.b), keys = keys_of(args, place.b);
  A out[kPer<A>][kChannels] = {}, most[kPer<A>], total[kPer<A>] = {};
  for (int r = 0; r < kPer<A>; ++r) most[r] = minus_infinity<A>();
  for (int64_t first = 0; first < args.keys; first += kTile<A>) {
    A s[kPer<A>][kPer<A>];
    tile_product(queries, place.first, keys, first, s);
    for (int r = 0; r < kPer<A>; ++r) {
      A largest = most[r], sum = A(0);
      for (int q = 0; q < kPer<A>; ++q) {
        const bool there = keys.there(first + tile_column() + kSide * q);
        s[r][q] = there ? static_cast<A>(args.scale) * s[r][q] : minus_infinity<A>();
        largest = larger(largest, s[r][q]);
      }
      largest = over_row(largest, [](A a, A b) { return larger(a, b); });
      const A shift = largest == minus_infinity<A>() ? A(0) : largest, fade = exp(most[r] - shift);
      for (int q = 0; q < kPer<A>; ++q) {
        const A p = exp(s[r][q] - shift);
        sum += p;
        weight[(tile_row() + kSide * r) * kTileStride<A> + tile_column() + kSide * q] = p;
      }
      total[r] = total[r] * fade + sum_over_row(sum);
      most[r] = largest;
      for (int q = 0; q < kChannels; ++q) out[r][q] *= fade;
    }
    add_gathered(weight, kTileStride<A>, 1, values_of(args, place.b), first, place.chunk * kWidth, out);
  }
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t i = place.first + tile_row() + kSide * r;
    if (i >= args.queries) continue;
    const bool some = queries.there(i) && most[r] != minus_infinity<A>();
    for (int q = 0; q < kChannels; ++q) {
      const int64_t m = place.chunk * kWidth + tile_column() + kSide * q;
      if (m < args.masks)
        static_cast<A*>(args.out)[(place.b * args.masks + m) * args.queries + i] =
            some ? out[r][q] / total[r] : A(0);
    }
    if (place.chunk == 0 && tile_column() == 0)
      static_cast<A*>(args.lse)[place.b * args.queries + i] =
          some ? most[r] + log(total[r]) : -minus_infinity<A>();
  }
}

// The map's mean over the queries, for the block's keys.
template <class A>
__global__ void __launch_bounds__(kTileThreads) attention_mean(AttentionMasksArgs args) {
  KD_SHARED(A, part, kSide * kTile<A>);
  const Place place = place_of<A>(args.keys, 1);
  A sum[kPer<A>] = {};
  for (int64_t first = 0; first < args.queries; first += kTile<A>) {
    A a[kPer<A>][kPer<A>];
    attention_tile(args, place.b, first, place.first, a);
    for (int r = 0; r < kPer<A>; ++r)
      for (int q = 0; q < kPer<A>; ++q) sum[q] += a[r][q];
  }
  for (int q = 0; q < kPer<A>; ++q) part[tile_row() * kTile<A> + tile_column() + kSide * q] = sum[q];
  __syncthreads();
  const int64_t j = place.first + threadIdx.x;
  if (threadIdx.x >= kTile<A> || j >= args.keys) return;
  A total = A(0);
  for (int r = 0; r < kSide; ++r) total += part[r * kTile<A> + threadIdx.x];
  static_cast<A*>(args.mean)[place.b * args.keys + j] = total * share_of<A>(args, place.b);
}

// a (P - D) in place of a; D is given for this thread's rows.
template <class A>
KD_DEVICE void logit_grad_tile(const AttentionMasksArgs& args, int64_t b, int64_t first_query,
                               int64_t first_key, const A (&d)[kPer<A>], A (&a)[kPer<A>][kPer<A>]) {
  A p[kPer<A>][kPer<A>];
  tile_product(upstream_of(args, b), first_query, values_of(args, b), first_key, p);
  for (int q = 0; q < kPer<A>; ++q) {
    const A mean = mean_upstream<A>(args, b, first_key + tile_column() + kSide * q);
    for (int r = 0; r < kPer<A>; ++r) a[r][q] *= p[r][q] + mean - d[r];
  }
}

// D of this thread's rows: grad_out . out, and A under grad_mean, which takes a walk over the keys.
template <class A>
KD_DEVICE void row_sums(const AttentionMasksArgs& args, const Place& place, A (&d)[kPer<A>]) {
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t i = place.first + tile_row() + kSide * r;
    d[r] = A(0);
    for (int64_t m = tile_column(); i < args.queries && m < args.masks; m += kSide) {
      const int64_t at = (place.b * args.masks + m) * args.queries + i;
      if (args.query_mask == nullptr || args.query_mask[place.b * args.queries + i])
        d[r] += static_cast<const A*>(args.grad_out)[at] * static_cast<const A*>(args.out)[at];
    }
  }
  for (int64_t first = 0; first < args.keys; first += kTile<A>) {
    A a[kPer<A>][kPer<A>];
    attention_tile(args, place.b, place.first, first, a);
    for (int q = 0; q < kPer<A>; ++q) {
      const A mean = mean_upstream<A>(args, place.b, first + tile_column() + kSide * q);
      for (int r = 0; r < kPer<A>; ++r) d[r] += a[r][q] * mean;
    }
  }
  for (int r = 0; r < kPer<A>; ++r) d[r] = sum_over_row(d[r]);
}

template <class A>
KD_DEVICE void put_tile(const A (&a)[kPer<A>][kPer<A>], A* tile) {
  __syncthreads();  // the last readers are done
  for (int r = 0; r < kPer<A>; ++r)
    for (int q = 0; q < kPer<A>; ++q)
      tile[(tile_row() + kSide * r) * kTileStride<A> + tile_column() + kSide * q] = a[r][q];
}

// The gradient of 64 queries, and D for the gradients of the keys.
template <int kChannels, class A>
__global__ void __launch_bounds__(kTileThreads) attention_query_grad(AttentionMasksArgs args) {
  constexpr int kWidth = kSide * kChannels;
  KD_SHARED(A, tile, kTile<A> * kTileStride<A>);
  const Place place = place_of<A>(args.queries, chunks_of(args.width, kWidth));
  A d[kPer<A>], grad[kPer<A>][kChannels] = {};
  row_sums(args, place, d);
  for (int64_t first = 0; first < args.keys; first += kTile<A>) {
    A a[kPer<A>][kPer<A>];
    attention_tile(args, place.b, place.first, first, a);
    logit_grad_tile(args, place.b, place.first, first, d, a);
    put_tile(a, tile);
    add_gathered(tile, kTileStride<A>, 1, keys_of(args, place.b), first, place.chunk * kWidth, grad);
  }
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t i = place.first + tile_row() + kSide * r;
    if (i >= args.queries) continue;
    if (place.chunk == 0 && tile_column() == 0) static_cast<A*>(args.work)[place.b * args.queries + i] = d[r];
    for (int q = 0; q < kChannels; ++q) {
      const int64_t c = place.chunk * kWidth + tile_column() + kSide * q;
      if (c < args.width) put_number(args.grad_query, place.b, i, c, static_cast<A>(args.scale) * grad[r][q]);
    }
  }
}

// The gradient of 64 keys, or, in the chunks behind those of the keys' channels, of their values.
template <int kChannels, class A>
__global__ void __launch_bounds__(kTileThreads) attention_key_grad(AttentionMasksArgs args) {
  constexpr int kWidth = kSide * kChannels;
  KD_SHARED(A, tile, kTile<A> * kTileStride<A>);
  const int64_t of_keys = chunks_of(args.width, kWidth);
  const Place place = place_of<A>(args.keys, of_keys + chunks_of(args.masks, kWidth));
  const bool values = place.chunk >= of_keys;
  const int64_t channel = (values ? place.chunk - of_keys : place.chunk) * kWidth;
  const Operand from = values ? upstream_of(args, place.b) : queries_of(args, place.b);
  A grad[kPer<A>][kChannels] = {};
  for (int64_t first = 0; first < args.queries; first += kTile<A>) {
    A a[kPer<A>][kPer<A>], d[kPer<A>];
    attention_tile(args, place.b, first, place.first, a);
    if (!values) {
      for (int r = 0; r < kPer<A>; ++r) {
        const int64_t i = first + tile_row() + kSide * r;
        d[r] = i < args.queries ? static_cast<const A*>(args.work)[place.b * args.queries + i] : A(0);
      }
      logit_grad_tile(args, place.b, first, place.first, d, a);
    }
    put_tile(a, tile);
    add_gathered(tile, 1, kTileStride<A>, from, first, channel, grad);
  }
  const MapView& to = values ? args.grad_value : args.grad_key;
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t j = place.first + tile_row() + kSide * r;
    for (int q = 0; j < args.keys && q < kChannels; ++q) {
      const int64_t c = channel + tile_column() + kSide * q;
      if (c < from.channels)
        put_number(to, place.b, j, c, values ? grad[r][q] : static_cast<A>(args.scale) * grad[r][q]);
    }
  }
}

template <int kChannels, class A>
void run_stage(const AttentionMasksArgs& args, cudaStream_t stream) {
  const auto grid = [&](int64_t positions, int64_t chunks) -> LaunchShape {
    const int64_t tiles = (positions + kTile<A> - 1) / kTile<A>;
    return {static_cast<unsigned>(args.batch * tiles * chunks), kTileThreads};
  };
  const int64_t of_keys = chunks_of(args.width, kSide * kChannels),
                of_masks = chunks_of(args.masks, kSide * kChannels);
  switch (args.stage) {
    case AttentionStage::kPack:
      return;
    case AttentionStage::kForward:
      return launch(attention_forward<kChannels, A>, grid(args.queries, of_masks), stream, args);
    case AttentionStage::kMean:
      return launch(attention_mean<A>, grid(args.keys, 1), stream, args);
    case AttentionStage::kBackward:
      return launch(attention_query_grad<kChannels, A>, grid(args.queries, of_keys), stream, args);
    case AttentionStage::kKeyGrad:
      return launch(attention_key_grad<kChannels, A>, grid(args.keys, of_keys + of_masks), stream, args);
  }
}

// As many channels a block as are needed, 16 to 128.
template <class A>
void run_attention(const AttentionMasksArgs& args, cudaStream_t stream) {
  const int64_t channels = args.stage == AttentionStage::kForward ? args.masks : args.width;
  if (channels <= kSide) return run_stage<1, A>(args, stream);
  if (channels <= 2 * kSide) return run_stage<2, A>(args, stream);
  if (channels <= 4 * kSide) return run_stage<4, A>(args, stream);
  run_stage<8, A>(args, stream);
}

}  // namespace
}  // namespace kd

extern "C" void kd_attention_masks_cuda(const kd::AttentionMasksArgs& args, int, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (args.compute == kd::DType::kFloat64) return kd::run_attention<double>(args, on);
  kd::run_attention<float>(args, on);
}
