// attention_map_kl on the CPU: both sides' logits of a block of queries side by side in the cache, where the
// student's become their own gradient; then the products of attention_masks' backward pass.
#include "../attention_map_kl.h"

#include "attention_block.h"
#include "attention_pack.h"

namespace kd {
namespace {

template <class A>
class MapKlItem : AttentionBlock<A> {
  using Base = AttentionBlock<A>;
  using Base::kLanes, Base::kPanel;
  using typename Base::V;

 public:
  MapKlItem(const AttentionMapKlArgs& args, int64_t item)
      : Base(args.student, item), args_(args), teacher_(args.teacher, item) {}

  void run() {
    if (args_.with_grad) this->clear_parts();
    this->each_block([&](int64_t first, int64_t n) {
      this->load_queries(first, n), teacher_.load_queries(first, n);
      this->make_logits(n), teacher_.make_logits(n);
      for (int64_t i = 0; i < this->rows_; ++i) {
        if (i < n)
          make_row(i, first + i);
        else if (args_.with_grad)
          clear_row(i);
      }
      if (!args_.with_grad) return;
      this->clear_query_grad();
      for (int64_t panel = 0; panel < this->plan_.panels(); ++panel) {
        this->key_grad(panel, n, this->logits(0, panel), this->stride_);
        this->query_grad(panel, n, this->logits(0, panel), this->stride_);
      }
      this->write_query_grad(first, n);
    });
  }

 private:
  struct Teacher : Base {
    Teacher(const AttentionMasksArgs& args, int64_t item) : Base(args, item) {}
    using Base::load_queries, Base::make_logits, Base::logits, Base::largest;
  };

  void clear_row(int64_t i) {
    A* row = this->logits(i, 0);
    for (int64_t j = 0; j < this->plan_.panels() * kPanel; ++j) row[j] = 0;
  }

  static A log_sum_exp(const A* row, int64_t width, A most) {
    V sums = fill<V>(0);
    for (int64_t j = 0; j < width; j += kLanes) sums += exp_below(load<V>(row + j) - splat<V>(most));
    return most + log(sum_of_lanes(sums));
  }

  // The value of row i, and factor (q - p) in place of its logits.
  void make_row(int64_t i, int64_t query) {
    const int64_t width = this->plan_.panels() * kPanel, at = this->b_ * args_.student.queries + query;
    A *s = this->logits(i, 0), *t = teacher_.logits(i, 0);
    const A most_s = this->largest(i), most_t = teacher_.largest(i);
    A* value = static_cast<A*>(args_.value) + at;
    *value = 0;
    if (most_t == minus_infinity<A>() || most_s == minus_infinity<A>() || !this->attends(query))
      return clear_row(i);
    const V lse_s = splat<V>(log_sum_exp(s, width, most_s)), lse_t = splat<V>(log_sum_exp(t, width, most_t));
    const V factor = splat<V>(static_cast<const A*>(args_.factor)[at]);
    V sum = fill<V>(0);
    for (int64_t j = 0; j < width; j += kLanes) {
      const V log_q = load<V>(s + j) - lse_s, log_p = load<V>(t + j) - lse_t, u = log_q - log_p;
      const V q = exp_below(log_q), p = exp_below(log_p);
      const auto near = u<fill<V>(1), there = log_p> minus_infinity<V>();
      // Beyond u = 1 nothing cancels, and e^u may overflow where p is 0.
      const V term = select(near, p * phi(select(near, u, fill<V>(0))), q - p - p * u);
      sum += select(there, term, fill<V>(0));
      store(s + j, factor * (q - p));
    }
    *value = sum_of_lanes(sum);
  }

  const AttentionMapKlArgs& args_;
  Teacher teacher_;
};

template <class A>
class AttentionMapKl {
 public:
  static int64_t items(const AttentionMapKlArgs& args) {
    const AttentionPlan<A> plan{args.student};
    return args.stage == AttentionStage::kForward ? plan.items() : args.student.batch * plan.panels();
  }

  static void run(const AttentionMapKlArgs& args, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      if (args.stage == AttentionStage::kForward) {
        MapKlItem<A>(args, item).run();
      } else if (args.stage == AttentionStage::kKeyGrad) {
        join_key_grads(AttentionPlan<A>{args.student}, item);
      } else {
        pack_keys(AttentionPlan<A>{args.student}, item);
        pack_keys(AttentionPlan<A>{args.teacher}, item);
      }
    }
  }
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(attention_map_kl, AttentionMapKlArgs, AttentionMapKl)
