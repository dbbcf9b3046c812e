// A hand's share of one chunk: where its points go, and which of them say something.
#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <unordered_set>

#include "hand/hand.hpp"

namespace ms_infer {

namespace {

constexpr double kMargin = 0.3;   // how far outside of the picture a point is kept
constexpr double kCover = 0.8;    // of the grid's spacing
constexpr double kSpring = 0.02;  // share of the way back to its point of rest that a pushed point goes in each RGB frame

}  // namespace

Tracks Hand::tracks(double now, int frames) {
  require(frames >= 1, MS_ERROR_CONFIG, "a chunk has 1 or more RGB frames, not ", frames);
  require(std::isfinite(now), MS_ERROR_CONFIG, "a time must be finite seconds, not ", now);
  const std::lock_guard lock(lock_);
  check_samples(static_cast<std::int64_t>(dots_.capacity), frames);
  now = std::max(now, last_);
  set_stick(frames);
  tidy();
  const auto steps = static_cast<std::size_t>(frames);
  std::vector<float> points(2 * dots_.size() * steps);
  std::vector<std::uint8_t> visible(dots_.size() * steps);
  const Pushes all = pushes(now, frames);
  for (std::size_t frame = 0; frame < steps; ++frame) {
    for (std::size_t row = 0; row < dots_.size(); ++row)
      for (std::size_t axis = 0; axis < 2; ++axis) dots_.points[row][axis] += all.steps[row * steps + frame][axis];
    move_camera(all.held, double(frame + 1) / frames);
    for (const auto& [row, track] : played_rows()) {
      const float* place = playing_->tracks.point(track, place_in(playing_->tracks, static_cast<int>(frame)));
      dots_.points[row] = {place[0], place[1]};
    }
    const Mask now_seen = seen(static_cast<int>(frame));
    for (std::size_t row = 0; row < dots_.size(); ++row) {
      const std::size_t at = row * steps + frame;
      points[2 * at] = static_cast<float>(dots_.points[row][0]), points[2 * at + 1] = static_cast<float>(dots_.points[row][1]);
      visible[at] = now_seen[row];
    }
  }
  stick_before_ = stick_, last_ = now;
  played_ += frames;
  let_go();
  kinds_ = dots_.kind;
  return Tracks::make(std::move(points), std::move(visible), dots_.ids, frames, std::nullopt, fps_);
}

// The stick of a chunk: as it is held, and what is left of the way that the camera is carried.
void Hand::set_stick(int frames) {
  const double seconds = frames / fps_;
  for (std::size_t i = 0; i < way_.size(); ++i) {
    const double held = steered_.axes[i], most = kFullSpeed[i] * seconds, wanted = way_[i] / most;
    const double added = std::min(std::max(wanted, -1 - held), 1 - held);
    way_[i] = added == wanted ? 0.0 : way_[i] - added * most;
    stick_.axes[i] = held + added;
  }
}

// Drops points far outside and, when the camera moves, puts new ones into cells that became empty.
void Hand::tidy() {
  if (playing_) return;
  Mask inside(dots_.size());
  for (std::size_t row = 0; row < inside.size(); ++row) {
    const auto [x, y] = dots_.points[row];
    inside[row] = !(x < -kMargin || y < -kMargin || x > 1 + kMargin || y > 1 + kMargin);
  }
  dots_.keep(inside);
  if (!stick_.moving() || rows_ * cols_ == 0) return;
  Mask empty(static_cast<std::size_t>(rows_) * static_cast<std::size_t>(cols_), 1);
  for (const auto& [x, y] : dots_.points) {
    const double column = std::floor(x * cols_), row = std::floor(y * rows_);
    if (column >= 0 && column < cols_ && row >= 0 && row < rows_) empty[static_cast<std::size_t>(row * cols_ + column)] = 0;
  }
  std::vector<Point> added;
  const auto cells = grid_cells(rows_, cols_);
  for (std::size_t cell = 0; cell < cells.size(); ++cell)
    if (empty[cell]) added.push_back(cells[cell]);
  dots_.add(added, Kind::grid);
}

// Movement by pointers, paths and the field; and whether the camera leaves a point.
Hand::Pushes Hand::pushes(double now, int frames) {
  const auto steps = static_cast<std::size_t>(frames);
  Pushes all{std::vector<Point>(dots_.size() * steps, Point{0, 0}), Mask(dots_.size(), 0)};
  for (Hold& one : holds_) {
    auto* pointer = std::get_if<PointerMover>(&one.mover);
    const auto made = pointer ? pointer->steps(last_, now, frames) : std::get<PathMover>(one.mover).steps(frames, fps_);
    for (const std::size_t row : dots_.rows(one.ids)) {
      for (std::size_t frame = 0; frame < steps; ++frame)
        for (std::size_t axis = 0; axis < 2; ++axis) all.steps[row * steps + frame][axis] += made[frame][axis];
      all.held[row] = 1;
    }
  }
  if (field_) push_by_field(all, all.held, frames);
  for (std::size_t row = 0; row < dots_.size(); ++row)
    if (dots_.kind[row] == Kind::fixed) all.held[row] = 1;
  return all;
}

void Hand::push_by_field(Pushes& all, const Mask& moved, int frames) {
  std::vector<std::size_t> loose;
  std::vector<Point> rests;
  for (std::size_t row = 0; row < dots_.size(); ++row)
    if (dots_.kind[row] == Kind::grid && !moved[row]) loose.push_back(row), rests.push_back(dots_.rest[row]);
  const auto movement = field_->take(rests);
  const auto steps = static_cast<std::size_t>(frames);
  for (std::size_t i = 0; i < loose.size(); ++i)
    for (std::size_t axis = 0; axis < 2; ++axis) {
      const double back = (rests[i][axis] - dots_.points[loose[i]][axis]) * kSpring;
      const double step = movement[i][axis] / frames + back;
      for (std::size_t frame = 0; frame < steps; ++frame) all.steps[loose[i] * steps + frame][axis] += step;
    }
}

void Hand::move_camera(const Mask& held, double part) {
  if (!stick_.moving() && !stick_before_.moving()) return;
  const Stick stick = stick_before_.towards(stick_, part);
  for (std::size_t row = 0; row < dots_.size(); ++row)
    if (!held[row]) dots_.points[row] = stick.moved(dots_.points[row], fps_, aspect_);
}

int Hand::place_in(const Tracks& tracks, int frame) const {
  const std::int64_t at = played_ + frame;
  return static_cast<int>(loop_ ? at % tracks.frames : std::min<std::int64_t>(at, tracks.frames - 1));
}

std::vector<std::pair<std::size_t, int>> Hand::played_rows() const {
  std::vector<std::pair<std::size_t, int>> found;
  if (!playing_) return found;
  std::unordered_map<std::int64_t, int> track_of;
  for (std::size_t i = 0; i < playing_->ids.size(); ++i) track_of.emplace(playing_->ids[i], static_cast<int>(i));
  for (std::size_t row = 0; row < dots_.size(); ++row)
    if (const auto track = track_of.find(dots_.ids[row]); track != track_of.end()) found.emplace_back(row, track->second);
  return found;
}

Mask Hand::seen(int frame) const {
  const bool rests = hold_rest_ || stick_.moving() || field_.has_value();
  Mask seen(dots_.size());
  for (std::size_t row = 0; row < seen.size(); ++row) {
    const auto [x, y] = dots_.points[row];
    seen[row] = !dots_.free[row] && (dots_.kind[row] != Kind::grid || rests) && x >= 0 && y >= 0 && x < 1 && y < 1;
  }
  for (const auto& [row, track] : played_rows())
    seen[row] = seen[row] && playing_->tracks.seen(track, place_in(playing_->tracks, frame));
  if (!playing_) hide_covered(seen);
  return seen;
}

// Resting grid points that a moved point lies upon: what they stand for is hidden behind it.
void Hand::hide_covered(Mask& seen) const {
  std::vector<Point> moving;
  for (std::size_t row = 0; row < dots_.size(); ++row)
    if (dots_.kind[row] == Kind::drag || dots_.kind[row] == Kind::path) moving.push_back(dots_.points[row]);
  for (std::size_t row = 0; row < dots_.size(); ++row) {
    if (dots_.kind[row] != Kind::grid || !seen[row]) continue;
    const Point& place = dots_.points[row];
    seen[row] = std::none_of(moving.begin(), moving.end(), [&](const Point& other) {
      return squared((place[0] - other[0]) * cols_, (place[1] - other[1]) * rows_) < kCover * kCover;
    });
  }
}

void Hand::let_go() {
  std::vector<std::int64_t> arrived;
  for (const Hold& one : holds_)
    if (one.done()) arrived.insert(arrived.end(), one.ids.begin(), one.ids.end());
  std::erase_if(holds_, [](const Hold& one) { return one.done(); });
  std::unordered_set<std::int64_t> held;
  for (const Hold& one : holds_) held.insert(one.ids.begin(), one.ids.end());
  std::erase_if(arrived, [&](std::int64_t id) { return held.contains(id); });
  for (const std::size_t row : dots_.rows(arrived)) dots_.free[row] = !hold_released_;
}

}  // namespace ms_infer
