#include "hand/hand.hpp"

#include <algorithm>
#include <cmath>

namespace ms_infer {

namespace {

constexpr std::int64_t kMaxPoints = 10'000, kSpare = 32;  // the grid leaves some for what is grabbed, painted and held
constexpr std::size_t kMaxPointers = 16, kMaxPaths = 64;  // that move at the same time
constexpr double kFar = 10.0, kSame = 1e-3;

void check_place(double value) {
  require(std::fabs(value) <= kFar, MS_ERROR_CONFIG, "a hand's positions are shares of the picture, 0..1, not pixels: "
          "divide x by its width and y by its height");  // NaN too
}

void check_places(std::span<const Point> points) {
  for (const Point& point : points) check_place(point[0]), check_place(point[1]);
}

void check_moment(double at) { require(std::isfinite(at), MS_ERROR_CONFIG, "a time must be finite seconds, not ", at); }

void check_reach(double reach) {
  require(std::isfinite(reach) && reach >= 0, MS_ERROR_CONFIG, "reach must be 0 or more picture heights, not ", reach);
}

}  // namespace

Hand::Hand(const Options& options) : aspect_(options.aspect), fps_(options.fps), dots_(0) {
  require(options.capacity >= 1 && options.capacity <= kMaxPoints, MS_ERROR_CONFIG, "a hand has a capacity of 1..",
          kMaxPoints, " points, not ", options.capacity);
  check_positive("aspect", aspect_), check_positive("fps", fps_);
  dots_.capacity = static_cast<std::size_t>(options.capacity);
  grid(options.rows, options.cols);
}

void Hand::hold(bool rest, bool released) {
  const std::lock_guard lock(lock_);
  hold_rest_ = rest, hold_released_ = released;
}

void Hand::grid(int rows, int cols) {
  require(rows >= 0 && cols >= 0, MS_ERROR_CONFIG, "a grid has 0 or more rows and columns, not ", rows, " x ", cols);
  const std::lock_guard lock(lock_);
  const std::int64_t most = std::max<std::int64_t>(static_cast<std::int64_t>(dots_.capacity) - kSpare, 0);
  while (std::int64_t{rows} * cols > most) rows = std::max(rows - 1, 0), cols = std::max(cols - 1, 0);
  rows_ = rows, cols_ = cols;
  clear();
}

void Hand::reset() {
  const std::lock_guard lock(lock_);
  clear();
}

void Hand::clear() {
  holds_.clear();
  playing_.reset();
  played_ = 0;
  stick_before_ = {};
  way_ = {};
  dots_.clear();
  dots_.add(grid_cells(rows_, cols_), Kind::grid);
}

template <class Mover>
std::size_t Hand::count() const {
  return static_cast<std::size_t>(std::ranges::count_if(
      holds_, [](const Hold& one) { return std::holds_alternative<Mover>(one.mover); }));
}

int Hand::press(std::int64_t pointer, const Point& point, double at, double reach, std::span<const Point> thing) {
  check_places(std::array<Point, 1>{point}), check_moment(at), check_reach(reach), check_places(thing);
  const std::lock_guard lock(lock_);
  let_go_of(pointer);
  if (count<PointerMover>() >= kMaxPointers) return 0;
  return add_hold(PointerMover(point, at), taken(dots_, point, reach, thing, Kind::drag, aspect_), Kind::drag, pointer);
}

void Hand::move(std::int64_t pointer, const Point& point, double at) {
  check_places(std::array<Point, 1>{point}), check_moment(at);
  const std::lock_guard lock(lock_);
  for (Hold& one : holds_)
    if (auto* mover = std::get_if<PointerMover>(&one.mover); mover && one.pointer == pointer) mover->move(point, at);
}

void Hand::release(std::int64_t pointer) {
  const std::lock_guard lock(lock_);
  let_go_of(pointer);
}

void Hand::let_go_of(std::int64_t pointer) {
  for (Hold& one : holds_) {
    auto* mover = std::get_if<PointerMover>(&one.mover);
    if (!mover || !one.pointer || (pointer != kEveryPointer && *one.pointer != pointer)) continue;
    mover->release();
    one.pointer.reset();
  }
}

int Hand::add_hold(std::variant<PointerMover, PathMover> mover, const Mask& along, Kind kind,
                   std::optional<std::int64_t> pointer) {
  std::vector<std::int64_t> ids;
  std::vector<Point> left;  // where the grid's were: what is behind a thing is not known, so no grid point may go there
  for (std::size_t row = 0; row < along.size(); ++row) {
    if (!along[row]) continue;
    if (dots_.kind[row] == Kind::grid) left.push_back(dots_.points[row]);
    dots_.kind[row] = kind, dots_.free[row] = 0;
    ids.push_back(dots_.ids[row]);
  }
  const int held = static_cast<int>(ids.size());
  if (held) holds_.push_back({std::move(mover), std::move(ids), pointer});
  const std::size_t bare = dots_.add(left, Kind::grid).size();
  std::fill(dots_.free.end() - std::ptrdiff_t(bare), dots_.free.end(), std::uint8_t{1});
  return held;
}

void Hand::fix(std::span<const Point> points) {
  check_places(points);
  const std::lock_guard lock(lock_);
  dots_.add(points, Kind::fixed);
}

void Hand::free_grid_near(std::span<const Point> places, bool free) {
  for (std::size_t row = 0; row < dots_.size(); ++row) {
    if (dots_.kind[row] != Kind::grid) continue;
    const bool near = std::any_of(places.begin(), places.end(), [&](const Point& place) {
      return squared((dots_.rest[row][0] - place[0]) * cols_, (dots_.rest[row][1] - place[1]) * rows_) < kHandRim * kHandRim;
    });
    if (near) dots_.free[row] = free;
  }
}

void Hand::brush(std::span<const Point> points) {
  check_places(points);
  const std::lock_guard lock(lock_);
  dots_.add(points, Kind::drag, true);
  free_grid_near(points, true);
}

void Hand::remove(std::span<const Point> points) {
  check_places(points);
  const std::lock_guard lock(lock_);
  Mask kept(dots_.size(), 1);
  std::vector<Point> painted;
  for (std::size_t row = 0; row < kept.size(); ++row) {
    if (dots_.kind[row] != Kind::fixed && !dots_.grouped[row]) continue;
    const Point& rest = dots_.rest[row];
    kept[row] = std::none_of(points.begin(), points.end(), [&](const Point& place) {
      return squared(rest[0] - place[0], rest[1] - place[1]) < kSame * kSame;
    });
    if (!kept[row] && dots_.grouped[row]) painted.push_back(rest);
  }
  free_grid_near(painted, false);
  dots_.keep(kept);
}

int Hand::path(std::span<const Point> points, double seconds, double reach, std::span<const Point> thing) {
  require(points.size() >= 2, MS_ERROR_CONFIG, "a path has at least 2 points (x, y), not ", points.size());
  check_places(points), check_places(thing), check_positive("seconds", seconds), check_reach(reach);
  const std::lock_guard lock(lock_);
  if (count<PathMover>() >= kMaxPaths) return 0;
  const Mask along = taken(dots_, points[0], reach, thing, Kind::path, aspect_);
  return add_hold(PathMover({points.begin(), points.end()}, seconds), along, Kind::path, std::nullopt);
}

void Hand::steer(const Stick& stick) {
  for (const double value : stick.axes)
    require(value >= -1 && value <= 1, MS_ERROR_CONFIG, "the stick's x, y, zoom and roll are -1..1, not ", value);
  const std::lock_guard lock(lock_);
  steered_ = stick;
}

void Hand::carry(const Stick& way) {
  for (const double value : way.axes)
    require(std::isfinite(value), MS_ERROR_CONFIG, "the camera is carried by finite numbers, not ", value);
  const std::lock_guard lock(lock_);
  for (std::size_t i = 0; i < way_.size(); ++i)
    way_[i] = std::min(std::max(way_[i] + way.axes[i], -10 * kFullSpeed[i]), 10 * kFullSpeed[i]);
}

void Hand::play(const Tracks* tracks, bool loop) {
  std::optional<Tracks> played;
  if (tracks) {
    played = tracks->to_pixels({1, 1}).resample(fps_);
    const auto most = std::min(dots_.capacity, played->ids.size());
    played = played->select(std::vector(played->ids.begin(), played->ids.begin() + std::ptrdiff_t(most)));
  }
  const std::lock_guard lock(lock_);
  clear();
  loop_ = loop;
  if (!played) return;
  dots_.clear();
  std::vector<Point> begin;
  for (int row = 0; row < played->count(); ++row) begin.push_back({played->point(row, 0)[0], played->point(row, 0)[1]});
  auto ids = dots_.add(begin, Kind::path);
  playing_ = Playing{std::move(*played), std::move(ids)};
}

void Hand::push(std::span<const double> movement, int rows, int cols) {
  for (const double value : movement)
    require(std::isfinite(value), MS_ERROR_CONFIG, "movement must be finite numbers, not ", value);
  const std::lock_guard lock(lock_);
  if (movement.empty()) {
    field_.reset();
    return;
  }
  if (!field_) field_.emplace();
  field_->add(movement, rows, cols);
}

std::vector<Kind> Hand::kinds() const {
  const std::lock_guard lock(lock_);
  return kinds_;
}

}  // namespace ms_infer
