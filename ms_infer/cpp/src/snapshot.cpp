// Snapshots: everything the next chunk depends on, in the format of snapshot.py.
#include <charconv>
#include <cstring>

#include "sha256.hpp"
#include "stream.hpp"

namespace ms_infer {

namespace {

constexpr const char* kFormat = "ms_infer.snapshot/1";

template <class Value>
TensorView view_of(Dtype dtype, Shape shape, std::span<const Value> values) {
  return {dtype, std::move(shape), {reinterpret_cast<const unsigned char*>(values.data()), values.size_bytes()}};
}

template <class Value>
std::vector<Value> copy_of(const TensorView& view) {
  std::vector<Value> values(view.data.size() / sizeof(Value));
  if (!values.empty()) std::memcpy(values.data(), view.data.data(), view.data.size());
  return values;
}

template <class Value>
Value number(const Metadata& header, const char* name) {
  const auto found = header.find(name);
  Value value{};
  if (found != header.end()) {
    const char *first = found->second.data(), *last = first + found->second.size();
    const auto [end, error] = std::from_chars(first, last, value);
    if (error == std::errc() && end == last) return value;
  }
  fail(MS_ERROR_CONFIG, "the snapshot has no whole number as its ", name);
}

struct SavedPlayer {
  Tracks control;
  std::vector<float> anchors;
  std::int64_t start = 0;
};

SavedPlayer read_player(const Safetensors& file, PictureSize size, double fps) {
  const TensorView& points = file.at("player.points", Dtype::float32);
  require(points.shape.size() == 3 && points.shape[2] == 2 && points.shape[1] >= 1 && points.shape[1] < 1 << 26,
          MS_ERROR_CONFIG, "the snapshot's tracks have the shape ", shape_text(points.shape));
  const auto count = points.shape[0], frames = points.shape[1];
  SavedPlayer saved;
  saved.control = Tracks::make(copy_of<float>(points),
                               copy_of<std::uint8_t>(file.at("player.visible", Dtype::boolean, {count, frames})),
                               copy_of<std::int64_t>(file.at("player.ids", Dtype::int64, {count})),
                               static_cast<int>(frames), size, fps);
  saved.anchors = copy_of<float>(file.at("player.anchors", Dtype::float32, {count, 2}));
  saved.start = copy_of<std::int64_t>(file.at("player.start", Dtype::int64, {1}))[0];
  return saved;
}

}  // namespace

std::string Stream::digest() const { return sha256(config().sorted_json + label_); }

void Stream::snapshot(const std::filesystem::path& path) {
  StagedEngine& engine = open();
  require(started_, MS_ERROR_STATE, "nothing to snapshot: start or step the stream first");
  const auto state = engine.state();
  std::map<std::string, TensorView> tensors;
  for (const auto& [name, tensor] : state) tensors["engine." + name] = tensor.view();
  const Tracks& control = player_.control();
  const Shape grid{control.count(), control.frames};
  const std::int64_t start[] = {player_.start()};
  tensors["player.points"] = view_of<float>(Dtype::float32, {grid[0], grid[1], 2}, control.points);
  tensors["player.visible"] = view_of<std::uint8_t>(Dtype::boolean, grid, control.visible);
  tensors["player.ids"] = view_of<std::int64_t>(Dtype::int64, {grid[0]}, control.ids);
  tensors["player.anchors"] = view_of<float>(Dtype::float32, {grid[0], 2}, player_.anchors());
  tensors["player.start"] = view_of<std::int64_t>(Dtype::int64, {1}, start);
  if (!image_.empty())
    tensors["image"] = view_of<std::uint8_t>(Dtype::uint8, {config().height, config().width, 3}, image_);
  tensors["text"] = view_of<float>(Dtype::float32, {config().text.tokens, config().text.dim}, *applied_->text);
  write_safetensors(path, tensors,
                    {{"format", kFormat},
                     {"digest", digest()},
                     {"index", std::to_string(index_)},
                     {"given", std::to_string(given_)},
                     {"seed", std::to_string(seed_)},
                     {"control_id", std::to_string(applied_->id)}});
}

void Stream::restore(const std::filesystem::path& path) {
  StagedEngine& engine = open();
  const Safetensors file(path);
  const Metadata& header = file.metadata();
  const auto is = [&](const char* name, const std::string& wanted) {
    return header.contains(name) && header.at(name) == wanted;
  };
  require(is("format", kFormat), MS_ERROR_CONFIG, path.string(), " is not a snapshot of this version (need ", kFormat,
          ")");
  require(is("digest", digest()), MS_ERROR_CONFIG, path.string(),
          " was made with other settings or another engine than this stream (", label_,
          "); open the same bundle with the same engine and precision");
  const auto index = number<std::int64_t>(header, "index"), given = number<std::int64_t>(header, "given");
  const auto seed = number<std::uint64_t>(header, "seed");
  Control control;
  control.id = number<std::int64_t>(header, "control_id");
  require(index >= 0 && (given == 0 || given == 1), MS_ERROR_CONFIG, path.string(), " holds impossible counters");
  const PictureSize size{config().height, config().width};
  const Shape text_shape{config().text.tokens, config().text.dim};
  const auto text = copy_of<float>(file.at("text", Dtype::float32, text_shape));
  std::vector<std::uint8_t> image;
  if (file.tensors().contains("image"))
    image = copy_of<std::uint8_t>(file.at("image", Dtype::uint8, {size.height, size.width, 3}));
  SavedPlayer saved = read_player(file, size, config().fps);
  TrackPlayer player = new_player();
  player.restore(std::move(saved.control), std::move(saved.anchors), saved.start);
  if (player.control().count()) control.tracks = std::make_shared<const Tracks>(player.control());
  std::map<std::string, TensorView> state;
  for (const auto& [name, tensor] : file.tensors())
    if (name.starts_with("engine.")) state[name.substr(7)] = tensor;

  started_ = false;
  engine.reset();
  engine.set_text(text);
  engine.set_image(image);
  engine.restore(state);
  control.text = std::make_shared<const std::vector<float>>(text);
  controls_.reset(std::move(control));
  applied_ = controls_.newest();
  const std::lock_guard lock(player_lock_);
  player_ = std::move(player);
  image_ = std::move(image);
  index_ = index, given_ = given, seed_ = seed;
  started_ = true;
}

}  // namespace ms_infer
