// Snapshots: the state of a stream in one safetensors file, in the format of snapshot.py.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "state.hpp"

namespace ms_infer {

namespace {

constexpr const char* kSnapshotFormat = "ms_infer.snapshot/2";
constexpr std::int64_t kMostChunks = std::int64_t{1} << 40, kMostIds = std::int64_t{1} << 62;

using Views = std::map<std::string, TensorView>;

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
    if (error == std::errc() && end == last && value >= 0) return value;
  }
  fail(MS_ERROR_CONFIG, "the snapshot has no whole number as its ", name);
}

void add_tracks(Views& tensors, const std::string& prefix, const Tracks& tracks) {
  const Shape grid{tracks.count(), tracks.frames};
  tensors[prefix + "points"] = view_of<float>(Dtype::float32, {grid[0], grid[1], 2}, tracks.points);
  tensors[prefix + "visible"] = view_of<std::uint8_t>(Dtype::boolean, grid, tracks.visible);
  tensors[prefix + "ids"] = view_of<std::int64_t>(Dtype::int64, {grid[0]}, tracks.ids);
}

Tracks read_tracks(const Safetensors& file, const std::string& prefix, const StreamConfig& config) {
  const TensorView& points = file.at(prefix + "points", Dtype::float32);
  require(points.shape.size() == 3 && points.shape[2] == 2 && points.shape[1] >= 1 && points.shape[1] < 1 << 26,
          MS_ERROR_CONFIG, "the snapshot's tracks have the shape ", shape_text(points.shape));
  const auto count = points.shape[0], frames = points.shape[1];
  return Tracks::make(copy_of<float>(points),
                      copy_of<std::uint8_t>(file.at(prefix + "visible", Dtype::boolean, {count, frames})),
                      copy_of<std::int64_t>(file.at(prefix + "ids", Dtype::int64, {count})), static_cast<int>(frames),
                      PictureSize{config.height, config.width}, config.fps);
}

Embedding read_text(const Safetensors& file, const char* name, const StreamConfig& config) {
  return std::make_shared<const std::vector<float>>(
      copy_of<float>(file.at(name, Dtype::float32, {config.text.tokens, config.text.dim})));
}

TrackPlayer read_player(const Safetensors& file, const StreamConfig& config) {
  Tracks control = read_tracks(file, "player.", config);
  const std::int64_t count = control.count();
  auto anchors = copy_of<float>(file.at("player.anchors", Dtype::float32, {count, 2}));
  const auto start = copy_of<std::int64_t>(file.at("player.start", Dtype::int64, {1}))[0];
  TrackPlayer player({config.height, config.width}, config.fps, std::max(1, config.max_tracks));
  player.restore(std::move(control), std::move(anchors), start);
  return player;
}

// Numbers of a prompt that comes over several chunks.
void add_blend(Metadata& header, const std::string& kind, const PromptControl& prompt) {
  header[kind + "_chunks"] = std::to_string(prompt.blend.chunks);
  header[kind + "_way"] = std::to_string(int{prompt.blend.slerp});
  header[kind + "_done"] = std::to_string(prompt.done);
  header[kind + "_recache"] = std::to_string(int{prompt.recache});
  header[kind + "_replace_sink"] = std::to_string(int{prompt.replace_sink});
}

void read_blend(PromptControl& prompt, const std::string& kind, const Metadata& header) {
  if (!header.contains(kind + "_chunks")) return;
  const auto value = [&](const char* name) { return number<int>(header, (kind + name).c_str()); };
  const int way = value("_way");
  require(way < 2, MS_ERROR_CONFIG, "the snapshot blends its prompts in the way ", way,
          ", which this version does not know");
  prompt.blend = {value("_chunks"), way == 1};
  prompt.blend.check();
  prompt.done = value("_done");
  prompt.recache = value("_recache") != 0, prompt.replace_sink = value("_replace_sink") != 0;
}

Metadata header_of(const StreamState& state) {
  const auto text = [](auto value) { return std::to_string(value); };
  Metadata header{{"format", kSnapshotFormat},
                  {"digest", state.digest},
                  {"index", text(state.index)},
                  {"given", text(state.given)},
                  {"seed", text(state.seed)},
                  {"tracks_id", text(state.applied.tracks.id)},
                  {"prompt_id", text(state.applied.prompt.id)},
                  {"pending_tracks_id", text(state.pending.tracks.id)},
                  {"pending_prompt_id", text(state.pending.prompt.id)},
                  {"pending_recache", text(int{state.pending.prompt.recache})},
                  {"pending_replace_sink", text(int{state.pending.prompt.replace_sink})}};
  if (state.applied.prompt.origin) add_blend(header, "blend", state.applied.prompt);
  if (state.pending.prompt.blend.chunks > 1) add_blend(header, "pending_blend", state.pending.prompt);
  return header;
}

// Controls that no chunk has played yet; no points: the tracks are to be released.
Control read_pending(const Safetensors& file, const Control& applied, const StreamConfig& config) {
  const Metadata& header = file.metadata();
  Control pending = applied;
  if (const auto id = number<std::int64_t>(header, "pending_tracks_id"); id != applied.tracks.id) {
    pending.tracks = {id, nullptr};
    if (file.tensors().contains("pending.points"))
      pending.tracks.tracks = std::make_shared<const Tracks>(read_tracks(file, "pending.", config));
  }
  if (const auto id = number<std::int64_t>(header, "pending_prompt_id"); id != applied.prompt.id) {
    pending.prompt = {id, read_text(file, "pending.text", config), number<int>(header, "pending_recache") != 0,
                      number<int>(header, "pending_replace_sink") != 0};
    read_blend(pending.prompt, "pending_blend", header);
  }
  return pending;
}

void check_ids(const char* kind, std::int64_t applied, std::int64_t pending) {
  require(0 <= applied && applied <= pending && pending < kMostIds, MS_ERROR_CONFIG, "the state's ", kind,
          " have the ids ", applied, " (applied) and ", pending, ": they only grow");
}

}  // namespace

void check_state(const StreamState& state, const StreamConfig& config) {
  require(state.index >= 0 && state.index < kMostChunks, MS_ERROR_CONFIG, "the state's next chunk is ", state.index,
          "; expected 0 to 2^40");
  const std::int64_t given = config.image_input == ImageInput::prefill && state.image ? 1 : 0;
  require(state.given == given, MS_ERROR_CONFIG, "the state has ", state.given, " given latent frames, not ", given);
  check_ids("tracks", state.applied.tracks.id, state.pending.tracks.id);
  check_ids("prompts", state.applied.prompt.id, state.pending.prompt.id);
  for (const Control* control : {&state.applied, &state.pending})
    for (const Embedding& text : {control->prompt.text, control->prompt.origin})
      require(!text || std::ranges::all_of(*text, [](float value) { return std::isfinite(value); }), MS_ERROR_CONFIG,
              "the state's text holds NaN or infinite values");
}

void write_snapshot(const std::filesystem::path& path, const StreamState& state, const StreamConfig& config) {
  Views tensors;
  for (const auto& [name, tensor] : state.engine) tensors["engine." + name] = tensor.view();
  const Tracks& control = state.player.control();
  const std::int64_t start[] = {state.player.start()};
  add_tracks(tensors, "player.", control);
  tensors["player.anchors"] = view_of<float>(Dtype::float32, {control.count(), 2}, state.player.anchors());
  tensors["player.start"] = view_of<std::int64_t>(Dtype::int64, {1}, start);
  if (state.image) tensors["image"] = view_of<std::uint8_t>(Dtype::uint8, {config.height, config.width, 3}, *state.image);
  const Shape text{config.text.tokens, config.text.dim};
  tensors["text"] = view_of<float>(Dtype::float32, text, *state.applied.prompt.text);
  if (state.applied.prompt.origin)
    tensors["text_origin"] = view_of<float>(Dtype::float32, text, *state.applied.prompt.origin);
  const Control& pending = state.pending;
  if (pending.tracks.id > state.applied.tracks.id && pending.tracks.tracks)
    add_tracks(tensors, "pending.", *pending.tracks.tracks);
  if (pending.prompt.id > state.applied.prompt.id)
    tensors["pending.text"] = view_of<float>(Dtype::float32, text, *pending.prompt.text);
  write_safetensors(path, tensors, header_of(state));
}

StreamState read_snapshot(const std::filesystem::path& path, const StreamConfig& config) {
  const Safetensors file(path);
  const Metadata& header = file.metadata();
  const auto format = header.find("format");
  require(format != header.end() && format->second == kSnapshotFormat, MS_ERROR_CONFIG, path.string(),
          " is not a snapshot of this version (need ", kSnapshotFormat, ")");
  StreamState state;
  if (const auto digest = header.find("digest"); digest != header.end()) state.digest = digest->second;
  state.index = number<std::int64_t>(header, "index"), state.given = number<std::int64_t>(header, "given");
  state.seed = number<std::uint64_t>(header, "seed");
  state.player = read_player(file, config);
  state.applied.tracks.id = number<std::int64_t>(header, "tracks_id");
  if (state.player.control().count())
    state.applied.tracks.tracks = std::make_shared<const Tracks>(state.player.control());
  state.applied.prompt = {number<std::int64_t>(header, "prompt_id"), read_text(file, "text", config)};
  read_blend(state.applied.prompt, "blend", header);
  if (file.tensors().contains("text_origin")) state.applied.prompt.origin = read_text(file, "text_origin", config);
  state.pending = read_pending(file, state.applied, config);
  if (file.tensors().contains("image"))
    state.image = std::make_shared<const std::vector<std::uint8_t>>(
        copy_of<std::uint8_t>(file.at("image", Dtype::uint8, {config.height, config.width, 3})));
  for (const auto& [name, tensor] : file.tensors())
    if (name.starts_with("engine."))
      state.engine[name.substr(7)] = {tensor.dtype, tensor.shape, {tensor.data.begin(), tensor.data.end()}};
  return state;
}

}  // namespace ms_infer
