#include "tracks.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <unordered_set>

namespace ms_infer {

namespace {

constexpr std::int64_t kMaxSamples = std::int64_t{1} << 25;  // points x RGB frames
constexpr float kMaxRelative = 100.0f;                       // 0..1 coordinates beyond this are pixels
constexpr float kMaxPixels = 1e6f;

void check_positive(const char* name, double value) {
  require(std::isfinite(value) && value > 0, MS_ERROR_CONFIG, name, " must be a positive number, not ", value);
}

void check_samples(std::int64_t count, double frames) {
  require(double(count) * frames <= double(kMaxSamples) && frames <= double(kMaxSamples), MS_ERROR_CONFIG, count,
          " tracks over ", frames, " RGB frames are too many positions; at most ", kMaxSamples, " are possible");
}

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

}  // namespace

Tracks Tracks::make(std::vector<float> points, std::vector<std::uint8_t> visible, std::vector<std::int64_t> ids,
                    int frames, std::optional<PictureSize> size, double fps) {
  Tracks tracks;
  tracks.points = std::move(points);
  tracks.visible = std::move(visible);
  tracks.ids = std::move(ids);
  tracks.frames = frames;
  tracks.size = size;
  tracks.fps = fps;
  tracks.check();
  return tracks;
}

void Tracks::check() const {
  check_positive("fps", fps);
  require(frames >= 1, MS_ERROR_CONFIG, "tracks need at least 1 RGB frame, not ", frames);
  require(!size || (size->height >= 1 && size->width >= 1), MS_ERROR_CONFIG,
          "the size of the tracks' picture must be positive in both directions, or 0 x 0 for coordinates 0..1");
  check_samples(count(), frames);
  float largest = 0;
  for (const float value : points) {
    require(std::isfinite(value), MS_ERROR_CONFIG,
            "points hold NaN or infinity; put any finite position there and mark it invisible");
    largest = std::max(largest, std::fabs(value));
  }
  require(size || largest <= kMaxRelative, MS_ERROR_CONFIG, "coordinates reach ", largest,
          ", but without a size they are 0..1; for pixels give width and height");
  require(largest <= kMaxPixels, MS_ERROR_CONFIG, "coordinates reach ", largest, "; at most ", kMaxPixels,
          " pixels are possible");
  std::unordered_set<std::int64_t> known;
  for (const auto id : ids)
    require(id >= 0 && known.insert(id).second, MS_ERROR_CONFIG, "track ids must be unique and 0 or more; ", id,
            " is not");
}

Tracks Tracks::empty(std::optional<PictureSize> size, double fps) { return make({}, {}, {}, 1, size, fps); }

Tracks Tracks::grid(int rows, int columns, std::optional<PictureSize> size, double fps) {
  require(rows >= 1 && columns >= 1, MS_ERROR_CONFIG, "a grid needs at least 1 row and 1 column, not ", rows, " x ",
          columns);
  check_samples(rows, columns);
  const PictureSize unit = size.value_or(PictureSize{1, 1});
  const auto count = std::size_t(rows) * columns;
  std::vector<float> points;
  for (int row = 0; row < rows; ++row)
    for (int column = 0; column < columns; ++column) {
      points.push_back(static_cast<float>((column + 0.5) / columns * unit.width));
      points.push_back(static_cast<float>((row + 0.5) / rows * unit.height));
    }
  std::vector<std::int64_t> ids(count);
  std::iota(ids.begin(), ids.end(), 0);
  return make(std::move(points), std::vector<std::uint8_t>(count, 1), std::move(ids), 1, size, fps);
}

Tracks Tracks::sampled(std::span<const double> where, double new_fps) const {
  // Differences and weights are float32, their product is exact in float64: the same with and without FMA.
  const int last = frames - 1;
  const auto steps = where.size();
  std::vector<float> new_points(2 * ids.size() * steps);
  std::vector<std::uint8_t> new_visible(ids.size() * steps);
  for (int track = 0; track < count(); ++track) {
    for (std::size_t k = 0; k < steps; ++k) {
      const double s = std::min(where[k], double(last));
      const int lower = static_cast<int>(std::floor(s)), upper = std::min(lower + 1, last);
      const double weight = static_cast<float>(s - lower);
      const std::size_t at = std::size_t(track) * steps + k;
      for (int axis = 0; axis < 2; ++axis) {
        const float from = point(track, lower)[axis], difference = point(track, upper)[axis] - from;
        new_points[2 * at + axis] = static_cast<float>(double(from) + double(difference) * weight);
      }
      new_visible[at] = seen(track, static_cast<int>(std::floor(s + 0.5)));
    }
  }
  return make(std::move(new_points), std::move(new_visible), ids, static_cast<int>(steps), size, new_fps);
}

Tracks Tracks::resample(double new_fps) const {
  check_positive("fps", new_fps);
  if (new_fps == fps) return *this;
  const double steps = std::ceil((frames - 1) * new_fps / fps);
  check_samples(count(), steps + 1);
  std::vector<double> where(static_cast<std::size_t>(steps) + 1);
  for (std::size_t k = 0; k < where.size(); ++k) where[k] = double(k) * fps / new_fps;
  return sampled(where, new_fps);
}

Tracks Tracks::to_pixels(PictureSize picture, bool hide_outside) const {
  const PictureSize own = size.value_or(PictureSize{1, 1});
  Tracks scaled = *this;
  for (std::size_t at = 0; at < visible.size(); ++at) {
    const float x = static_cast<float>(double(points[2 * at]) * picture.width / own.width);
    const float y = static_cast<float>(double(points[2 * at + 1]) * picture.height / own.height);
    const bool inside = x >= 0 && x < float(picture.width) && y >= 0 && y < float(picture.height);
    scaled.points[2 * at] = x, scaled.points[2 * at + 1] = y;
    scaled.visible[at] = visible[at] && (inside || !hide_outside);
  }
  scaled.size = picture;
  scaled.check();
  return scaled;
}

Tracks Tracks::extended(std::int64_t new_frames) const {
  if (new_frames <= frames) return *this;
  std::vector<double> where(static_cast<std::size_t>(new_frames));
  std::iota(where.begin(), where.end(), 0.0);
  return sampled(where, fps);
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
  for (const auto& corner : corners)
    require(std::isfinite(corner[0]) && std::isfinite(corner[1]), MS_ERROR_CONFIG, "a path needs finite coordinates");
  require(std::isfinite(start) && start >= 0, MS_ERROR_CONFIG, "start must be 0 or more seconds, not ", start);
  require(std::isfinite(radius) && radius >= 0, MS_ERROR_CONFIG, "radius must be 0 or more, not ", radius);
  check_positive("seconds", seconds);
  const double first = std::nearbyint(start * fps), steps = std::max(1.0, std::nearbyint(seconds * fps));
  check_samples(std::max(count(), 1), first + steps + 1);
  Tracks moved = extended(static_cast<std::int64_t>(first + steps + 1));
  std::vector<double> progress(static_cast<std::size_t>(moved.frames));
  for (std::size_t k = 0; k < progress.size(); ++k) {
    const double p = std::clamp((double(k) - first) / steps, 0.0, 1.0);
    progress[k] = smooth ? p * p * (3 - 2 * p) : p;
  }
  const auto weight = moved.falloff(corners[0], static_cast<int>(first), radius);
  const auto places = along(corners, progress);
  for (int track = 0; track < moved.count(); ++track)
    for (std::size_t k = 0; k < places.size(); ++k)
      for (int axis = 0; axis < 2; ++axis) {
        float& value = moved.points[2 * (std::size_t(track) * places.size() + k) + axis];
        value = static_cast<float>(double(value) + weight[track] * (places[k][axis] - corners[0][axis]));
      }
  moved.check();
  return moved;
}

}  // namespace ms_infer
