#include "blend.hpp"

#include <algorithm>
#include <cmath>
#include <span>

#include "error.hpp"

namespace ms_infer {

namespace {

constexpr double kNearlyParallel = 0.9995;

using Row = std::span<const float>;

double dot(Row one, Row other) {
  double sum = 0;
  for (std::size_t i = 0; i < one.size(); ++i) sum += double{one[i]} * double{other[i]};
  return sum;
}

void linear(Row old, Row next, double share, float* out) {
  const auto kept = static_cast<float>(1 - share), come = static_cast<float>(share);
  for (std::size_t i = 0; i < old.size(); ++i) out[i] = old[i] * kept + next[i] * come;
}

// Rows that are zero, parallel or opposite have no arc between them and go straight.
void turned(Row old, Row next, double share, float* out) {
  const double lengths[] = {std::sqrt(dot(old, old)), std::sqrt(dot(next, next))};
  const double cosine = dot(old, next) / std::max(lengths[0] * lengths[1], 1e-30);
  if (lengths[0] <= 0 || lengths[1] <= 0 || std::abs(cosine) >= kNearlyParallel) return linear(old, next, share, out);
  const double angle = std::acos(cosine), length = ((1 - share) * lengths[0] + share * lengths[1]) / std::sin(angle);
  const double first = std::sin((1 - share) * angle) * length / lengths[0];
  const double second = std::sin(share * angle) * length / lengths[1];
  for (std::size_t i = 0; i < old.size(); ++i) out[i] = static_cast<float>(first * old[i] + second * next[i]);
}

}  // namespace

void Blend::check() const {
  require(chunks >= 1 && chunks <= kMostChunks, MS_ERROR_CONFIG, "a prompt takes 1 to ", kMostChunks,
          " chunks to come, not ", chunks);
}

Embedding Blend::between(const Embedding& old, const Embedding& next, std::size_t dim, int chunk) const {
  const double share = double(chunk) / chunks;
  if (share >= 1) return next;
  std::vector<float> made(next->size());
  for (std::size_t at = 0; at + dim <= made.size(); at += dim)
    (slerp ? turned : linear)(Row(*old).subspan(at, dim), Row(*next).subspan(at, dim), share, made.data() + at);
  return std::make_shared<const std::vector<float>>(std::move(made));
}

}  // namespace ms_infer
