#include "tracks/tracks.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_map>
#include <unordered_set>

namespace ms_infer {

namespace {

constexpr float kMaxRelative = 100.0f;                       // 0..1 coordinates beyond this are pixels
constexpr float kMaxPixels = 1e6f;

}  // namespace

void check_positive(const char* name, double value) {
  require(std::isfinite(value) && value > 0, MS_ERROR_CONFIG, name, " must be a positive number, not ", value);
}

void check_samples(std::int64_t count, double frames) {
  require(double(count) * frames <= double(kMaxSamples) && frames <= double(kMaxSamples), MS_ERROR_CONFIG, count,
          " tracks over ", frames, " RGB frames are too many positions; at most ", kMaxSamples, " are possible");
}

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

Tracks Tracks::stretched(int new_frames) const {
  require(new_frames >= 1, MS_ERROR_CONFIG, "frames must be at least 1, not ", new_frames);
  check_samples(count(), new_frames);
  std::vector<double> where(static_cast<std::size_t>(new_frames));
  const double last = frames - 1, steps = std::max(new_frames - 1, 1);
  for (std::size_t k = 0; k < where.size(); ++k) where[k] = double(k) * last / steps;
  return sampled(where, fps);
}

Tracks Tracks::in_units_of(std::optional<PictureSize> wanted) const {
  if (wanted == size) return *this;
  const PictureSize from = size.value_or(PictureSize{1, 1}), to = wanted.value_or(PictureSize{1, 1});
  Tracks scaled = *this;
  for (std::size_t at = 0; at < visible.size(); ++at) {
    scaled.points[2 * at] = static_cast<float>(double(points[2 * at]) * to.width / from.width);
    scaled.points[2 * at + 1] = static_cast<float>(double(points[2 * at + 1]) * to.height / from.height);
  }
  scaled.size = wanted;
  scaled.check();
  return scaled;
}

Tracks Tracks::merge(const Tracks& given) const {
  const Tracks other = (given.fps == fps ? given : given.resample(fps)).in_units_of(size);
  const int longest = std::max(frames, other.frames);
  Tracks all = extended(longest);
  const Tracks theirs = other.extended(longest);
  all.points.insert(all.points.end(), theirs.points.begin(), theirs.points.end());
  all.visible.insert(all.visible.end(), theirs.visible.begin(), theirs.visible.end());
  const std::unordered_set<std::int64_t> taken(ids.begin(), ids.end());
  std::int64_t next = -1;
  for (const auto* known : {&ids, &theirs.ids})
    for (const auto id : *known) next = std::max(next, id);
  for (const auto id : theirs.ids) all.ids.push_back(taken.contains(id) ? ++next : id);
  check_samples(all.count(), longest);
  all.check();
  return all;
}

Tracks Tracks::with_static(std::span<const Point> places) const {
  check_samples(static_cast<std::int64_t>(places.size()), frames);
  std::vector<float> held;
  for (const Point& place : places)
    for (int frame = 0; frame < frames; ++frame)
      held.push_back(static_cast<float>(place[0])), held.push_back(static_cast<float>(place[1]));
  std::vector<std::int64_t> names(places.size());
  std::iota(names.begin(), names.end(), 0);
  std::vector<std::uint8_t> seen_always(held.size() / 2, 1);
  return merge(make(std::move(held), std::move(seen_always), std::move(names), frames, size, fps));
}

Tracks Tracks::rows(std::span<const std::size_t> wanted) const {
  const auto steps = static_cast<std::size_t>(frames);
  Tracks some{{}, {}, {}, size, fps, frames};
  for (const std::size_t row : wanted) {
    some.points.insert(some.points.end(), points.begin() + std::ptrdiff_t(2 * row * steps),
                       points.begin() + std::ptrdiff_t(2 * (row + 1) * steps));
    some.visible.insert(some.visible.end(), visible.begin() + std::ptrdiff_t(row * steps),
                        visible.begin() + std::ptrdiff_t((row + 1) * steps));
    some.ids.push_back(ids[row]);
  }
  some.check();
  return some;
}

Tracks Tracks::select(std::span<const std::int64_t> wanted) const {
  std::unordered_map<std::int64_t, std::size_t> row_of;
  for (std::size_t row = 0; row < ids.size(); ++row) row_of.emplace(ids[row], row);
  std::vector<std::size_t> kept;
  for (const auto id : wanted) {
    const auto row = row_of.find(id);
    require(row != row_of.end(), MS_ERROR_CONFIG, "no track has the id ", id, "; there are ", count(), " tracks");
    kept.push_back(row->second);
  }
  return rows(kept);
}

Tracks Tracks::select_visible() const {
  std::vector<std::size_t> kept;
  const auto steps = static_cast<std::ptrdiff_t>(frames);
  for (std::ptrdiff_t row = 0; row < count(); ++row)
    if (std::any_of(visible.begin() + row * steps, visible.begin() + (row + 1) * steps, [](auto seen) { return seen; }))
      kept.push_back(static_cast<std::size_t>(row));
  return rows(kept);
}

}  // namespace ms_infer
