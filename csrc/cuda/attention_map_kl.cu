// attention_map_kl on the GPU, on the tiles of attention_masks. A block takes 64 queries: first the
// log-sum-exps of both sides, then the values and the queries' gradient; another launch takes 64 keys and
// walks the queries.
#include "../attention_map_kl.h"
#include "attention.cuh"

namespace kd {
namespace {

// log-sum-exps of this thread's rows; +inf for a row that is not counted or has no key.
template <class A>
KD_DEVICE void row_lse(const AttentionMasksArgs& args, int64_t b, int64_t first_query) {
  const Operand queries = queries_of(args, b), keys = keys_of(args, b);
  A most[kPer<A>], total[kPer<A>] = {};
  for (int r = 0; r < kPer<A>; ++r) most[r] = minus_infinity<A>();
  for (int64_t first = 0; first < args.keys; first += kTile<A>) {
    A s[kPer<A>][kPer<A>];
    tile_product(queries, first_query, keys, first, s);
    for (int r = 0; r < kPer<A>; ++r) {
      A largest = most[r], sum = A(0);
      for (int q = 0; q < kPer<A>; ++q) {
        const bool there = keys.there(first + tile_column() + kSide * q);
        s[r][q] = there ? static_cast<A>(args.scale) * s[r][q] : minus_infinity<A>();
        largest = larger(largest, s[r][q]);
      }
      largest = over_row(largest, [](A a, A b) { return larger(a, b); });
      const A shift = largest == minus_infinity<A>() ? A(0) : largest;
      for (int q = 0; q < kPer<A>; ++q) sum += exp(s[r][q] - shift);
      total[r] = total[r] * exp(most[r] - shift) + sum_over_row(sum);
      most[r] = largest;
    }
  }
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t i = first_query + tile_row() + kSide * r;
    const bool some = queries.there(i) && most[r] != minus_infinity<A>();
    if (i < args.queries && tile_column() == 0)
      static_cast<A*>(args.lse)[b * args.queries + i] = some ? most[r] + log(total[r]) : -minus_infinity<A>();
  }
}

template <class A>
__global__ void __launch_bounds__(kTileThreads) map_kl_lse(AttentionMapKlArgs args) {
  const int64_t tiles = (args.student.queries + kTile<A> - 1) / kTile<A>;
  const int64_t b = blockIdx.x / tiles, first = blockIdx.x % tiles * kTile<A>;
  row_lse<A>(args.student, b, first);
  row_lse<A>(args.teacher, b, first);
}

// A tile's q - p times the rows' factor, and each thread's share of its rows' values added to `value`.
template <class A>
KD_DEVICE void slope_tile(const AttentionMapKlArgs& args, int64_t b, int64_t first_query, int64_t first_key,
                          A (&slope)[kPer<A>][kPer<A>], A (&value)[kPer<A>]) {
  const AttentionMasksArgs &student = args.student, &teacher = args.teacher;
  const Operand keys = keys_of(student, b);
  A t[kPer<A>][kPer<A>];
  tile_product(queries_of(student, b), first_query, keys, first_key, slope);
  tile_product(queries_of(teacher, b), first_query, keys_of(teacher, b), first_key, t);
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t i = first_query + tile_row() + kSide * r, at = b * student.queries + i;
    const A lse_s = i < student.queries ? static_cast<const A*>(student.lse)[at] : -minus_infinity<A>();
    const A lse_t = i < student.queries ? static_cast<const A*>(teacher.lse)[at] : -minus_infinity<A>();
    const A factor = i < student.queries ? static_cast<const A*>(args.factor)[at] : A(0);
    for (int c = 0; c < kPer<A>; ++c) {
      if (!keys.there(first_key + tile_column() + kSide * c) || lse_s == -minus_infinity<A>()) {
        slope[r][c] = A(0);
        continue;
      }
      const A log_q = static_cast<A>(student.scale) * slope[r][c] - lse_s,
              log_p = static_cast<A>(teacher.scale) * t[r][c] - lse_t, u = log_q - log_p;
      const A q = exp(log_q), p = exp(log_p);
      value[r] += u < A(1) ? p * phi(u) : q - p - p * u;  // beyond 1 nothing cancels, and e^u may overflow
      slope[r][c] = factor * (q - p);
    }
  }
}

template <class A>
KD_DEVICE void put_slope(const A (&slope)[kPer<A>][kPer<A>], A* tile) {
  __syncthreads();  // the last readers are done
  for (int r = 0; r < kPer<A>; ++r)
    for (int c = 0; c < kPer<A>; ++c)
      tile[(tile_row() + kSide * r) * kTileStride<A> + tile_column() + kSide * c] = slope[r][c];
}

// Values, and a chunk of channels of the queries' gradient.
template <int kChannels, class A>
__global__ void __launch_bounds__(kTileThreads) map_kl_rows(AttentionMapKlArgs args) {
  constexpr int kWidth = kSide * kChannels;
  KD_SHARED(A, tile, kTile<A> * kTileStride<A>);
  const AttentionMasksArgs& student = args.student;
  const int64_t tiles = (student.queries + kTile<A> - 1) / kTile<A>;
  const int64_t chunks = args.with_grad ? (student.width + kWidth - 1) / kWidth : 1, block = blockIdx.x;
  const int64_t b = block / chunks / tiles, from = block / chunks % tiles * kTile<A>, chunk = block % chunks;
  A value[kPer<A>] = {}, grad[kPer<A>][kChannels] = {};
  for (int64_t first = 0; first < student.keys; first += kTile<A>) {
    A slope[kPer<A>][kPer<A>];
    slope_tile(args, b, from, first, slope, value);
    if (!args.with_grad) continue;
    put_slope(slope, tile);
    add_gathered(tile, kTileStride<A>, 1, keys_of(student, b), first, chunk * kWidth, grad);
  }
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t i = from + tile_row() + kSide * r;
    const A sum = sum_over_row(value[r]);
    if (i >= student.queries) continue;
    if (chunk == 0 && tile_column() == 0) static_cast<A*>(args.value)[b * student.queries + i] = sum;
    for (int q = 0; args.with_grad && q < kChannels; ++q) {
      const int64_t c = chunk * kWidth + tile_column() + kSide * q;
      if (c < student.width)
        put_number(student.grad_query, b, i, c, static_cast<A>(student.scale) * grad[r][q]);
    }
  }
}

// A chunk of channels of the gradient of 64 keys.
template <int kChannels, class A>
__global__ void __launch_bounds__(kTileThreads) map_kl_keys(AttentionMapKlArgs args) {
  constexpr int kWidth = kSide * kChannels;
  KD_SHARED(A, tile, kTile<A> * kTileStride<A>);
  const AttentionMasksArgs& student = args.student;
  const int64_t tiles = (student.keys + kTile<A> - 1) / kTile<A>;
  const int64_t chunks = (student.width + kWidth - 1) / kWidth, block = blockIdx.x;
  const int64_t b = block / chunks / tiles, from = block / chunks % tiles * kTile<A>, chunk = block % chunks;
  A unused[kPer<A>] = {}, grad[kPer<A>][kChannels] = {};
  for (int64_t first = 0; first < student.queries; first += kTile<A>) {
    A slope[kPer<A>][kPer<A>];
    slope_tile(args, b, first, from, slope, unused);
    put_slope(slope, tile);
    add_gathered(tile, 1, kTileStride<A>, queries_of(student, b), first, chunk * kWidth, grad);
  }
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t j = from + tile_row() + kSide * r;
    for (int q = 0; j < student.keys && q < kChannels; ++q) {
      const int64_t c = chunk * kWidth + tile_column() + kSide * q;
      if (c < student.width)
        put_number(student.grad_key, b, j, c, static_cast<A>(student.scale) * grad[r][q]);
    }
  }
}

template <int kChannels, class A>
void run_map_kl(const AttentionMapKlArgs& args, cudaStream_t stream) {
  const AttentionMasksArgs& student = args.student;
  const auto grid = [&](int64_t positions, int64_t chunks) -> LaunchShape {
    const int64_t tiles = (positions + kTile<A> - 1) / kTile<A>;
    return {static_cast<unsigned>(student.batch * tiles * chunks), kTileThreads};
  };
  const int64_t chunks = (student.width + kSide * kChannels - 1) / (kSide * kChannels);
  if (args.stage == AttentionStage::kForward) {
    launch(map_kl_lse<A>, grid(student.queries, 1), stream, args);
    launch(map_kl_rows<kChannels, A>, grid(student.queries, args.with_grad ? chunks : 1), stream, args);
  } else if (args.stage == AttentionStage::kKeyGrad) {
    launch(map_kl_keys<kChannels, A>, grid(student.keys, chunks), stream, args);
  }
}

template <class A>
void run_map_kl(const AttentionMapKlArgs& args, cudaStream_t stream) {
  if (args.student.width <= 2 * kSide) return run_map_kl<2, A>(args, stream);
  run_map_kl<4, A>(args, stream);
}

}  // namespace
}  // namespace kd

extern "C" void kd_attention_map_kl_cuda(const kd::AttentionMapKlArgs& args, int, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (args.compute == kd::DType::kFloat64) return kd::run_map_kl<double>(args, on);
  kd::run_map_kl<float>(args, on);
}
