#include "hand/movers.hpp"

#include <algorithm>
#include <cmath>

namespace ms_infer {

namespace {

constexpr double kMaxStep = 0.03;  // of the picture per RGB frame; a faster pointer is followed a little later
constexpr double kArrived = 1e-4;  // of the picture

// The polyline `points` at `at`, their ascending places being `where`; held before the first and after the last.
Point between(double at, std::span<const double> where, std::span<const Point> points) {
  const std::size_t last = where.size() - 1;
  std::size_t left = last;
  while (left > 0 && where[left] > at) --left;
  if (left == last || at < where[0]) return points[left];
  const double weight = (at - where[left]) / (where[left + 1] - where[left]);
  const auto &from = points[left], &to = points[left + 1];
  return {from[0] + (to[0] - from[0]) * weight, from[1] + (to[1] - from[1]) * weight};
}

}  // namespace

PointerMover::PointerMover(Point point, double at) : times_{at}, points_{point}, applied_(point) {}

void PointerMover::move(Point point, double at) {
  times_.push_back(std::max(at, times_.back()));
  points_.push_back(point);
  if (times_.size() > kMaxHistory) times_.erase(times_.begin() + 1), points_.erase(points_.begin() + 1);
}

std::vector<Point> PointerMover::steps(double last, double now, int frames) {
  const double begin = std::max(last, times_[0]);
  std::vector<Point> made;
  for (int frame = 0; frame < frames; ++frame) {
    const double part = fresh_ ? double(frame) / std::max(frames - 1, 1) : double(frame + 1) / frames;
    made.push_back(step(between(begin + (now - begin) * part, times_, points_)));
  }
  fresh_ = false;
  std::size_t old = 0;
  while (old + 1 < times_.size() && times_[old + 1] <= now) ++old;
  times_.erase(times_.begin(), times_.begin() + std::ptrdiff_t(old));
  points_.erase(points_.begin(), points_.begin() + std::ptrdiff_t(old));
  return made;
}

Point PointerMover::step(const Point& wanted) {
  double x = wanted[0] - applied_[0], y = wanted[1] - applied_[1];
  const double length = std::sqrt(x * x + y * y);
  if (length > kMaxStep) {
    const double scale = kMaxStep / length;
    x = x * scale, y = y * scale;
  }
  applied_ = {applied_[0] + x, applied_[1] + y};
  return {x, y};
}

bool PointerMover::done() const {
  const double x = points_.back()[0] - applied_[0], y = points_.back()[1] - applied_[1];
  return up_ && x * x + y * y < kArrived * kArrived;
}

PathMover::PathMover(std::vector<Point> corners, double seconds)
    : corners_(std::move(corners)), seconds_(seconds), applied_(corners_[0]) {
  for (std::size_t i = 1; i < corners_.size(); ++i) {
    const double x = corners_[i][0] - corners_[i - 1][0], y = corners_[i][1] - corners_[i - 1][1];
    along_.push_back(along_.back() + std::sqrt(x * x + y * y));
  }
  done_ = along_.back() == 0;
}

std::vector<Point> PathMover::steps(int frames, double fps) {
  std::vector<Point> made;
  for (int frame = 0; frame < frames; ++frame, ++played_) {
    const double part = std::min(double(played_) / fps / seconds_, 1.0);
    const Point point = between(part * along_.back(), along_, corners_);
    made.push_back({point[0] - applied_[0], point[1] - applied_[1]});
    applied_ = point;
    done_ = done_ || part == 1;
  }
  return made;
}

bool Stick::moving() const {
  return std::any_of(axes.begin(), axes.end(), [](double value) { return value != 0; });
}

Stick Stick::towards(const Stick& other, double part) const {
  Stick between;
  for (std::size_t i = 0; i < axes.size(); ++i) between.axes[i] = axes[i] + (other.axes[i] - axes[i]) * part;
  return between;
}

Point Stick::moved(const Point& point, double fps, double aspect) const {
  const auto [x, y, zoom, roll] = axes;
  const auto [full_x, full_y, full_zoom, full_roll] = kFullSpeed;
  const double half = zoom / fps * full_zoom * 0.5, scale = (1 + half) / (1 - half);
  const double tangent = -(roll / fps * full_roll * 0.5), below = 1 + tangent * tangent;
  const double cosine = (1 - tangent * tangent) / below, sine = 2 * tangent / below;
  const double across = (point[0] - 0.5) * aspect * scale, down = (point[1] - 0.5) * scale;
  return {(across * cosine - down * sine) / aspect + 0.5 - x / fps * full_x,
          across * sine + down * cosine + 0.5 - y / fps * full_y};
}

void Field::add(std::span<const double> movement, int rows, int cols) {
  if (sum_.empty() || rows_ != rows || cols_ != cols) sum_.assign(movement.size(), 0.0), rows_ = rows, cols_ = cols;
  for (std::size_t i = 0; i < movement.size(); ++i) sum_[i] = sum_[i] + movement[i];
}

std::vector<Point> Field::take(std::span<const Point> points) {
  std::vector<Point> found(points.size(), Point{0, 0});
  if (sum_.empty()) return found;
  const auto cell = [](double place, int cells) {  // a place may be too far outside for any integer
    return static_cast<std::size_t>(std::clamp(place * cells, 0.0, cells - 1.0));
  };
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::size_t at = 2 * (cell(points[i][1], rows_) * static_cast<std::size_t>(cols_) + cell(points[i][0], cols_));
    found[i] = {sum_[at], sum_[at + 1]};
  }
  sum_.clear();
  return found;
}

}  // namespace ms_infer
