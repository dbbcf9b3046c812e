// How points are moved: paths, grabs and the camera, number for number as tracks/tracks.py and tracks/camera.py do it.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "tracks/tracks.hpp"

namespace ms_infer {

namespace {

constexpr double kRim = 1.4;       // share of a grab's radius within which points that do not move along are let go
constexpr double kNearest = 0.05;  // share of a point's distance at which a camera that comes closer has passed it
constexpr double kMaxZoom = 100.0;

double length(double x, double y) { return std::sqrt(x * x + y * y); }

// Positions on a polyline at fractions of its length, as np.interp gives them.
std::vector<Point> along(std::span<const Point> corners, std::span<const double> progress) {
  std::vector<double> at{0.0};
  for (std::size_t i = 1; i < corners.size(); ++i) {
    const double dx = corners[i][0] - corners[i - 1][0], dy = corners[i][1] - corners[i - 1][1];
    at.push_back(at.back() + std::sqrt(dx * dx + dy * dy));
  }
  std::vector<Point> places(progress.size(), corners[0]);
  if (at.back() == 0) return places;
  for (std::size_t k = 0; k < progress.size(); ++k) {
    const double x = progress[k] * at.back();
    const auto upper = std::upper_bound(at.begin(), at.end(), x);
    const auto j = static_cast<std::size_t>(std::max<std::ptrdiff_t>(upper - at.begin() - 1, 0));
    for (int axis = 0; axis < 2; ++axis) {
      const bool exact = j + 1 >= at.size() || at[j] == x;
      const auto next = exact ? j : j + 1;
      const double slope = exact ? 0.0 : (corners[next][axis] - corners[j][axis]) / (at[next] - at[j]);
      places[k][axis] = exact ? corners[j][axis] : slope * (x - at[j]) + corners[j][axis];
    }
  }
  return places;
}

void check_finite(const char* what, std::span<const Point> points) {
  for (const auto& point : points)
    require(std::isfinite(point[0]) && std::isfinite(point[1]), MS_ERROR_CONFIG, what, " needs finite coordinates");
}

void check_radius(double radius) {
  require(std::isfinite(radius) && radius >= 0, MS_ERROR_CONFIG, "radius must be 0 or more, not ", radius);
}

void check_move(const CameraMove& move) {
  check_finite("a camera's pan", std::array<Point, 1>{move.pan});
  require(std::isfinite(move.zoom) && move.zoom >= 1 / kMaxZoom && move.zoom <= kMaxZoom, MS_ERROR_CONFIG,
          "zoom must be a factor within 0.01..100, not ", move.zoom);
  require(std::isfinite(move.roll) && std::isfinite(move.dolly), MS_ERROR_CONFIG, "roll and dolly must be finite, not ",
          move.roll, " and ", move.dolly);
  for (const float distance : move.depth)
    require(std::isfinite(distance) && distance > 0, MS_ERROR_CONFIG,
            "depth must hold positive, finite distances; it has ", distance);
}

// Factor that makes one unit of x as long as one of y.
double stretch_of(const CameraMove& move, bool in_pixels) {
  if (in_pixels) return 1.0;
  require(move.aspect != 0 || move.roll == 0, MS_ERROR_CONFIG, "roll turns the picture, so its shape must be known: make "
          "the tracks in pixels or give aspect = width / height");
  const double aspect = move.aspect == 0 ? 1.0 : move.aspect;
  require(std::isfinite(aspect) && aspect > 0, MS_ERROR_CONFIG, "aspect must be width / height > 0, not ", aspect);
  return aspect;
}

// The depth at (x, y) in 0..1: bilinear, held at the border.
double distance_at(const CameraMove& move, double x, double y) {
  if (move.depth.empty()) return 1.0;
  const auto [height, width] = move.depth_size;
  const double across = std::clamp(x * width - 0.5, 0.0, width - 1.0), down = std::clamp(y * height - 0.5, 0.0, height - 1.0);
  const int left = static_cast<int>(std::floor(across)), top = static_cast<int>(std::floor(down));
  const int right = std::min(left + 1, width - 1), bottom = std::min(top + 1, height - 1);
  const auto at = [&](int row, int column) { return double(move.depth[std::size_t(row) * std::size_t(width) + std::size_t(column)]); };
  const double upper = at(top, left) + (at(top, right) - at(top, left)) * (across - left);
  const double lower = at(bottom, left) + (at(bottom, right) - at(bottom, left)) * (across - left);
  return upper + (lower - upper) * (down - top);
}

}  // namespace

struct Tracks::Timeline {
  int first = 0;
  std::vector<double> progress;
  Tracks longer;
};

Tracks::Timeline Tracks::timeline(double seconds, double start, bool smooth) const {
  require(std::isfinite(start) && start >= 0, MS_ERROR_CONFIG, "start must be 0 or more seconds, not ", start);
  check_positive("seconds", seconds);
  const double first = std::nearbyint(start * fps), steps = std::max(1.0, std::nearbyint(seconds * fps));
  check_samples(std::max(count(), 1), first + steps + 1);
  Timeline made{static_cast<int>(first), {}, extended(static_cast<std::int64_t>(first + steps + 1))};
  made.progress.resize(static_cast<std::size_t>(made.longer.frames));
  for (std::size_t k = 0; k < made.progress.size(); ++k) {
    const double p = std::clamp((double(k) - first) / steps, 0.0, 1.0);
    made.progress[k] = smooth ? p * p * (3 - 2 * p) : p;
  }
  return made;
}

std::vector<double> Tracks::falloff(const Point& from, int frame, double radius) const {
  std::vector<double> weight(ids.size(), 0.0);
  int nearest = -1;
  double least = INFINITY;
  for (int track = 0; track < count(); ++track) {
    if (!seen(track, frame)) continue;
    const double dx = double(point(track, frame)[0]) - from[0], dy = double(point(track, frame)[1]) - from[1];
    const double distance = std::sqrt(dx * dx + dy * dy);
    if (distance < radius) weight[track] = 0.5 + 0.5 * std::cos(std::numbers::pi * distance / radius);
    if (distance < least) least = distance, nearest = track;
  }
  require(nearest >= 0, MS_ERROR_CONFIG, "no point is visible at RGB frame ", frame,
          ", so there is nothing to drag; add one first");
  weight[nearest] = 1.0;
  return weight;
}

Tracks Tracks::path(std::span<const Point> corners, double seconds, double radius, double start, bool smooth) const {
  require(corners.size() >= 2, MS_ERROR_CONFIG, "a path needs a point and at least one waypoint");
  check_finite("a path", corners);
  check_radius(radius);
  auto [first, progress, moved] = timeline(seconds, start, smooth);
  const auto weight = moved.falloff(corners[0], first, radius);
  const auto places = along(corners, progress);
  for (std::size_t track = 0; track < weight.size(); ++track)
    for (std::size_t k = 0; k < places.size(); ++k)
      for (std::size_t axis = 0; axis < 2; ++axis) {
        float& value = moved.points[2 * (track * places.size() + k) + axis];
        value = static_cast<float>(double(value) + weight[track] * (places[k][axis] - corners[0][axis]));
      }
  moved.check();
  return moved;
}

Tracks Tracks::grab(const Point& point, const Point& to, double seconds, double radius, double start) const {
  const std::array corners{point, to};
  check_finite("a grab", corners);
  check_positive("radius", radius);
  const auto [first, progress, longer] = timeline(seconds, start, true);
  const auto near = longer.falloff(point, first, radius), rim = longer.falloff(point, first, kRim * radius);
  auto places = along(corners, progress);
  for (Point& place : places) place = {place[0] - point[0], place[1] - point[1]};  // how far the thing has come
  Tracks moved = longer;
  for (std::size_t track = 0; track < near.size(); ++track)
    for (std::size_t k = 0; k < places.size(); ++k) {
      const std::size_t at = track * places.size() + k;
      const float* now = &longer.points[2 * at];
      if (near[track] > 0) {
        for (std::size_t axis = 0; axis < 2; ++axis)
          moved.points[2 * at + axis] = static_cast<float>(double(now[axis]) + places[k][axis]);
        continue;
      }
      const bool covered = length(now[0] - (point[0] + places[k][0]), now[1] - (point[1] + places[k][1])) < kRim * radius;
      if (static_cast<int>(k) >= first && (rim[track] > 0 || covered)) moved.visible[at] = 0;
    }
  moved.check();
  return moved;
}

// p' = centre + u * pan + R(u * roll) * zoom^u * Z / (Z - u * dolly) * (p - centre), u the progress, Z the distance at the
// point's position in the first RGB frame.
Tracks Tracks::camera(const CameraMove& move) const {
  check_move(move);
  auto [first, progress, moved] = timeline(move.seconds, move.start, move.smooth);
  const double width = size ? size->width : 1, height = size ? size->height : 1;
  const double stretch = stretch_of(move, size.has_value());
  const double centre_x = width / 2, centre_y = height / 2, turn = move.roll * (std::numbers::pi / 180.0);
  for (int track = 0; track < moved.count(); ++track) {
    const float* begin = moved.point(track, first);
    const double distance = distance_at(move, begin[0] / width, begin[1] / height);
    for (std::size_t k = 0; k < progress.size(); ++k) {
      const std::size_t at = std::size_t(track) * progress.size() + k;
      const double u = progress[k], left = distance - u * move.dolly;
      const double scale = std::pow(move.zoom, u) * distance / std::max(left, kNearest * distance);
      const double x = (moved.points[2 * at] - centre_x) * stretch * scale, y = (moved.points[2 * at + 1] - centre_y) * scale;
      const double cosine = std::cos(turn * u), sine = std::sin(turn * u);
      moved.points[2 * at] = static_cast<float>(centre_x + (x * cosine - y * sine) / stretch + u * move.pan[0]);
      moved.points[2 * at + 1] = static_cast<float>(centre_y + (x * sine + y * cosine) + u * move.pan[1]);
      moved.visible[at] = moved.visible[at] && left >= kNearest * distance;
    }
  }
  moved.check();
  return moved;
}

}  // namespace ms_infer
