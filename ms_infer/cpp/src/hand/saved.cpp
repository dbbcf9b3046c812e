// The state of a hand: the arrays of hand/saved.py as one safetensors document, times relative to when it was saved.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "files/tensors.hpp"
#include "hand/hand.hpp"

namespace ms_infer {

namespace {

constexpr std::int64_t kSome = 1 << 16, kMostHolds = 80;  // corners of a path, points of a hold; holds
constexpr double kLongAgo = -1e9;                         // seconds: a hand that has made no tracks yet

template <class Value>
constexpr Dtype kDtype = std::is_same_v<Value, double>         ? Dtype::float64
                         : std::is_same_v<Value, float>        ? Dtype::float32
                         : std::is_same_v<Value, std::int64_t> ? Dtype::int64
                                                               : Dtype::uint8;

template <class Value>
HostTensor array_of(Shape shape, const std::vector<Value>& values, Dtype dtype = kDtype<Value>) {
  HostTensor array{dtype, std::move(shape), Bytes(values.size() * sizeof(Value))};
  if (!values.empty()) std::memcpy(array.data.data(), values.data(), array.data.size());
  return array;
}

template <class Value>
struct Read {
  Shape shape;
  std::vector<Value> values;
};

// The array of that name and shape; kAny is any length up to `most`. Numbers must be finite.
constexpr std::int64_t kAny = -1;
template <class Value>
Read<Value> checked(const Safetensors& saved, const std::string& name, const Shape& wanted, std::int64_t most = kSome,
                    Dtype dtype = kDtype<Value>) {
  const auto found = saved.tensors().find(name);
  bool fits = found != saved.tensors().end() && found->second.dtype == dtype && found->second.shape.size() == wanted.size();
  for (std::size_t i = 0; fits && i < wanted.size(); ++i)
    fits = wanted[i] == kAny ? found->second.shape[i] <= most : found->second.shape[i] == wanted[i];
  require(fits, MS_ERROR_CONFIG, "a saved hand holds no ", name, " of the shape ", shape_text(wanted),
          "; save it again with ms_hand_save or Hand.state");
  Read<Value> read{found->second.shape, std::vector<Value>(found->second.data.size() / sizeof(Value))};
  if (!read.values.empty()) std::memcpy(read.values.data(), found->second.data.data(), found->second.data.size());
  if constexpr (std::is_floating_point_v<Value>)
    for (const Value value : read.values)
      require(std::isfinite(value), MS_ERROR_CONFIG, "a saved hand holds ", name, " that are not finite");
  return read;
}

std::int64_t length(const auto& values) { return static_cast<std::int64_t>(values.size()); }

bool all_of(const std::vector<double>& values, auto&& holds) {
  return std::all_of(values.begin(), values.end(), holds);
}

}  // namespace

// Reads and fills what is private to a hand.
struct SavedHand {
  using Arrays = std::map<std::string, HostTensor>;
  using Mover = std::variant<PointerMover, PathMover>;

  static void save_dots(Arrays& arrays, const Dots& dots) {
    std::vector<double> places;
    std::vector<std::uint8_t> marks;
    for (std::size_t row = 0; row < dots.size(); ++row) {
      for (const Point& point : {dots.points[row], dots.rest[row]}) places.insert(places.end(), point.begin(), point.end());
      for (const auto mark : {static_cast<std::uint8_t>(dots.kind[row]), dots.free[row], dots.grouped[row]})
        marks.push_back(mark);
    }
    const std::int64_t count = length(dots.ids);
    arrays["dots.ids"] = array_of({count}, dots.ids);
    arrays["dots.places"] = array_of({count, 4}, places);
    arrays["dots.marks"] = array_of({count, 3}, marks);
    arrays["dots.next"] = array_of({1}, std::vector{dots.next_});
  }

  static Dots load_dots(const Safetensors& saved, std::size_t capacity) {
    Dots dots(capacity);
    dots.ids = checked<std::int64_t>(saved, "dots.ids", {kAny}, static_cast<std::int64_t>(capacity)).values;
    const std::int64_t count = length(dots.ids);
    const auto places = checked<double>(saved, "dots.places", {count, 4}).values;
    const auto marks = checked<std::uint8_t>(saved, "dots.marks", {count, 3}).values;
    dots.next_ = checked<std::int64_t>(saved, "dots.next", {1}).values[0];
    const std::set<std::int64_t> unique(dots.ids.begin(), dots.ids.end());
    require(unique.size() == dots.ids.size() && (unique.empty() || *unique.begin() >= 0), MS_ERROR_CONFIG,
            "a saved hand holds ids twice or below 0");
    require(dots.next_ >= 0 && dots.next_ < std::int64_t{1} << 62, MS_ERROR_CONFIG,
            "a saved hand counts its points from an impossible number");
    for (std::size_t row = 0; row < dots.ids.size(); ++row) {
      const double* place = &places[4 * row];
      const std::uint8_t* mark = &marks[3 * row];
      require(mark[0] <= static_cast<std::uint8_t>(Kind::path) && mark[1] <= 1 && mark[2] <= 1, MS_ERROR_CONFIG,
              "a saved hand holds points of no known kind");
      dots.points.push_back({place[0], place[1]}), dots.rest.push_back({place[2], place[3]});
      dots.kind.push_back(static_cast<Kind>(mark[0])), dots.free.push_back(mark[1]), dots.grouped.push_back(mark[2]);
    }
    return dots;
  }

  static void save_pointer(Arrays& arrays, const std::string& prefix, const PointerMover& mover, double now) {
    std::vector<double> places;
    for (std::size_t i = 0; i < mover.times_.size(); ++i)
      for (const double value : {mover.times_[i] - now, mover.points_[i][0], mover.points_[i][1]}) places.push_back(value);
    arrays[prefix + "places"] = array_of({length(mover.times_), 3}, places);
    arrays[prefix + "numbers"] =
        array_of({4}, std::vector<double>{mover.applied_[0], mover.applied_[1], double(mover.up_), double(mover.fresh_)});
  }

  static void save_path(Arrays& arrays, const std::string& prefix, const PathMover& mover) {
    std::vector<double> places;
    for (const Point& corner : mover.corners_) places.insert(places.end(), corner.begin(), corner.end());
    arrays[prefix + "places"] = array_of({length(mover.corners_), 2}, places);
    arrays[prefix + "numbers"] =
        array_of({5}, std::vector<double>{mover.applied_[0], mover.applied_[1], double(mover.played_), mover.seconds_,
                                          double(mover.done_)});
  }

  static PathMover load_path(const Safetensors& saved, const std::string& prefix, const std::vector<double>& numbers) {
    const auto places = checked<double>(saved, prefix + "places", {kAny, 2}).values;
    require(places.size() >= 4 && numbers[2] >= 0 && numbers[2] < 0x1p53 && numbers[3] > 0, MS_ERROR_CONFIG,
            "a saved hand holds a path without a way");
    std::vector<Point> corners;
    for (std::size_t i = 0; i < places.size(); i += 2) corners.push_back({places[i], places[i + 1]});
    PathMover path(std::move(corners), numbers[3]);
    path.applied_ = {numbers[0], numbers[1]};
    path.played_ = static_cast<std::int64_t>(numbers[2]), path.done_ = numbers[4] != 0;
    return path;
  }

  static PointerMover load_pointer(const Safetensors& saved, const std::string& prefix,
                                   const std::vector<double>& numbers, double now) {
    const auto samples =
        checked<double>(saved, prefix + "places", {kAny, 3}, static_cast<std::int64_t>(kMaxHistory)).values;
    bool rising = !samples.empty();
    for (std::size_t i = 3; i < samples.size(); i += 3) rising = rising && samples[i] >= samples[i - 3];
    require(rising, MS_ERROR_CONFIG, "a saved hand holds a pointer whose times fall");
    PointerMover pointer({samples[1], samples[2]}, now);
    pointer.times_.clear(), pointer.points_.clear();
    for (std::size_t i = 0; i < samples.size(); i += 3)
      pointer.times_.push_back(now + samples[i]), pointer.points_.push_back({samples[i + 1], samples[i + 2]});
    pointer.applied_ = {numbers[0], numbers[1]};
    pointer.up_ = numbers[2] != 0, pointer.fresh_ = numbers[3] != 0;
    return pointer;
  }

  static std::vector<Hand::Hold> load_holds(const Safetensors& saved, double now) {
    std::vector<Hand::Hold> holds;
    for (std::int64_t i = 0; i < kMostHolds; ++i) {
      const std::string prefix = "hold" + std::to_string(i) + ".";
      const auto first = saved.tensors().lower_bound(prefix);
      if (first == saved.tensors().end() || !first->first.starts_with(prefix)) break;
      const auto pointer = checked<std::int64_t>(saved, prefix + "pointer", {kAny}, 1).values;
      auto ids = checked<std::int64_t>(saved, prefix + "ids", {kAny}).values;
      const auto numbers = checked<double>(saved, prefix + "numbers", {kAny}, 5).values;
      require(numbers.size() >= 4, MS_ERROR_CONFIG, "a saved hand holds what is neither a pointer nor a path");
      Mover mover = numbers.size() == 5 ? Mover(load_path(saved, prefix, numbers))
                                        : Mover(load_pointer(saved, prefix, numbers, now));
      holds.push_back({std::move(mover), std::move(ids), pointer.empty() ? std::nullopt : std::optional(pointer[0])});
    }
    return holds;
  }

  static std::optional<Hand::Playing> load_playing(const Safetensors& saved, double fps) {
    if (!saved.tensors().contains("playing.points")) return std::nullopt;
    auto points = checked<float>(saved, "playing.points", {kAny, kAny, 2});
    const std::int64_t count = points.shape[0], frames = points.shape[1];
    auto visible = checked<std::uint8_t>(saved, "playing.visible", {count, frames}, kSome, Dtype::boolean).values;
    auto ids = checked<std::int64_t>(saved, "playing.ids", {count}).values;
    auto dots = checked<std::int64_t>(saved, "playing.dots", {count}).values;
    return Hand::Playing{Tracks::make(std::move(points.values), std::move(visible), std::move(ids),
                                      static_cast<int>(frames), std::nullopt, fps),
                         std::move(dots)};
  }

  static std::optional<Field> load_field(const Safetensors& saved, bool there) {
    if (!there) return std::nullopt;
    Field field;
    if (!saved.tensors().contains("field")) return field;
    const auto sum = checked<double>(saved, "field", {kAny, kAny, 2}, 256);
    require(!sum.values.empty(), MS_ERROR_CONFIG, "a saved hand holds an empty field");
    field.add(sum.values, static_cast<int>(sum.shape[0]), static_cast<int>(sum.shape[1]));
    return field;
  }

  static void save_rest(Arrays& arrays, const Hand& hand, double now) {
    std::vector<double> sticks;
    for (const auto* axes : {&hand.stick_.axes, &hand.steered_.axes, &hand.stick_before_.axes, &hand.way_})
      sticks.insert(sticks.end(), axes->begin(), axes->end());
    arrays["sticks"] = array_of({4, 4}, sticks);
    arrays["numbers"] = array_of(
        {8}, std::vector<double>{double(hand.rows_), double(hand.cols_), double(hand.played_), double(hand.loop_),
                                 double(hand.hold_rest_), double(hand.hold_released_),
                                 std::isfinite(hand.last_) ? hand.last_ - now : kLongAgo, double(hand.field_.has_value())});
    if (hand.field_ && !hand.field_->sum_.empty())
      arrays["field"] = array_of({hand.field_->rows_, hand.field_->cols_, 2}, hand.field_->sum_);
    if (!hand.playing_) return;
    const Tracks& tracks = hand.playing_->tracks;
    const Shape grid{tracks.count(), tracks.frames};
    arrays["playing.points"] = array_of({grid[0], grid[1], 2}, tracks.points);
    arrays["playing.visible"] = array_of(grid, tracks.visible, Dtype::boolean);
    arrays["playing.ids"] = array_of({grid[0]}, tracks.ids);
    arrays["playing.dots"] = array_of({grid[0]}, hand.playing_->ids);
  }

  static Arrays save(const Hand& hand, double now) {
    Arrays arrays;
    save_dots(arrays, hand.dots_);
    save_rest(arrays, hand, now);
    for (std::size_t i = 0; i < hand.holds_.size(); ++i) {
      const Hand::Hold& hold = hand.holds_[i];
      const std::string prefix = "hold" + std::to_string(i) + ".";
      if (const auto* pointer = std::get_if<PointerMover>(&hold.mover)) save_pointer(arrays, prefix, *pointer, now);
      if (const auto* path = std::get_if<PathMover>(&hold.mover)) save_path(arrays, prefix, *path);
      const auto down = hold.pointer ? std::vector{*hold.pointer} : std::vector<std::int64_t>{};
      arrays[prefix + "ids"] = array_of({length(hold.ids)}, hold.ids);
      arrays[prefix + "pointer"] = array_of({length(down)}, down);
    }
    return arrays;
  }

  // Puts a saved hand in the place of this one, once all of it is checked.
  static void load(Hand& hand, const Safetensors& saved, double now) {
    Dots dots = load_dots(saved, hand.dots_.capacity);
    const auto numbers = checked<double>(saved, "numbers", {8}).values, sticks = checked<double>(saved, "sticks", {4, 4}).values;
    require(numbers[0] >= 0 && numbers[1] >= 0 && numbers[2] >= 0 && numbers[2] < 0x1p53 && numbers[6] <= 0, MS_ERROR_CONFIG,
            "a saved hand holds numbers below 0 or a later time");
    const auto capacity = static_cast<double>(hand.dots_.capacity);
    const bool fits = numbers[0] <= capacity && numbers[1] <= capacity && numbers[0] * numbers[1] <= capacity;
    require(fits, MS_ERROR_CONFIG, "a saved hand holds a grid that does not fit");
    require(all_of({sticks.begin(), sticks.begin() + 12}, [](double one) { return std::fabs(one) <= 1; }), MS_ERROR_CONFIG,
            "a saved hand holds a stick beyond its full speed");
    auto playing = load_playing(saved, hand.fps_);
    auto holds = load_holds(saved, now);
    auto field = load_field(saved, numbers[7] != 0);
    hand.kinds_ = dots.kind;
    hand.dots_ = std::move(dots), hand.playing_ = std::move(playing), hand.holds_ = std::move(holds);
    hand.field_ = std::move(field);
    hand.rows_ = static_cast<int>(numbers[0]), hand.cols_ = static_cast<int>(numbers[1]);
    hand.played_ = static_cast<std::int64_t>(numbers[2]), hand.loop_ = numbers[3] != 0;
    hand.hold_rest_ = numbers[4] != 0, hand.hold_released_ = numbers[5] != 0;
    hand.last_ = numbers[6] > kLongAgo ? now + numbers[6] : -std::numeric_limits<double>::infinity();
    auto from = sticks.begin();
    for (auto* axes : {&hand.stick_.axes, &hand.steered_.axes, &hand.stick_before_.axes, &hand.way_})
      std::copy_n(from, 4, axes->begin()), from += 4;
  }
};

Bytes Hand::save(double now) const {
  require(std::isfinite(now), MS_ERROR_CONFIG, "a time must be finite seconds, not ", now);
  const std::lock_guard lock(lock_);
  const SavedHand::Arrays arrays = SavedHand::save(*this, now);
  std::map<std::string, TensorView> views;
  for (const auto& [name, array] : arrays) views[name] = array.view();
  return safetensors_of(views, {});
}

void Hand::load(double now, Bytes saved) {
  require(std::isfinite(now), MS_ERROR_CONFIG, "a time must be finite seconds, not ", now);
  const Safetensors arrays(std::move(saved), "the saved hand");
  const std::lock_guard lock(lock_);
  SavedHand::load(*this, arrays, now);
}

}  // namespace ms_infer
