#include "config.hpp"

#include <algorithm>

namespace ms_infer {

namespace {

// A whole number of the manifest within what any real model has; a hostile one must not overflow an int.
int size_of(const Json& json, std::string_view name, int least, int most) {
  const auto value = json.at(name).integer();
  require(value >= least && value <= most, MS_ERROR_BUNDLE, "the manifest says ", name, " = ", value,
          "; expected ", least, "..", most);
  return static_cast<int>(value);
}

ContextConfig read_context(const Json& json) {
  ContextConfig context;
  context.chunk_frames = size_of(json, "chunk_frames", 1, 1024);
  context.sink_frames = size_of(json, "sink_frames", 0, 1024);
  context.window_frames = size_of(json, "window_frames", 0, 65536);
  const bool named = !json.at("first_chunk_frames").is_null();
  context.opening_frames =
      named ? size_of(json, "first_chunk_frames", 1, context.chunk_frames) : context.chunk_frames;
  const auto& rope = json.at("rope").string();
  require(rope == "relative" || rope == "absolute", MS_ERROR_BUNDLE, "the manifest names the rope '", rope,
          "'; expected relative or absolute");
  context.relative = rope == "relative";
  if (const Json* recompute = json.find("recompute")) context.recompute = recompute->boolean();
  require(!context.recompute || (!context.sink_frames && context.window_frames == context.chunk_frames),
          MS_ERROR_BUNDLE, "the manifest says recompute with sink_frames = ", context.sink_frames,
          " and window_frames = ", context.window_frames, "; expected 0 and chunk_frames, ", context.chunk_frames);
  return context;
}

ScheduleConfig read_schedule(const Json& json) {
  ScheduleConfig schedule;
  for (const auto& step : json.at("timesteps").array()) schedule.timesteps.push_back(step.number());
  schedule.warp = json.at("warp").boolean();
  schedule.shift = json.at("shift").number();
  if (const Json* twice = json.find("shifted_twice")) schedule.shifted_twice = twice->boolean();
  schedule.context_timestep = json.at("context_timestep").number();
  schedule.fresh_noise = json.at("renoise").string() == "fresh";
  const auto fits = [](double t) { return t > 0 && t <= 1000; };
  require(!schedule.timesteps.empty() && schedule.timesteps.size() <= 1000 &&
              std::all_of(schedule.timesteps.begin(), schedule.timesteps.end(), fits) && schedule.shift > 0,
          MS_ERROR_BUNDLE, "the manifest holds a schedule that cannot work: timesteps must be within 0..1000");
  return schedule;
}

TextConfig read_text(const Json& json) {
  TextConfig text;
  text.words = json.at("kind").string() == "words";
  text.tokens = size_of(json, "tokens", 1, 1 << 16);
  text.dim = size_of(json, "dim", 1, 1 << 16);
  for (const auto& word : json.at("vocabulary").array()) text.vocabulary.push_back(word.string());
  return text;
}

ImageInput read_image_input(const std::string& name) {
  if (name == "slot") return ImageInput::slot;
  if (name == "prefill") return ImageInput::prefill;
  require(name == "pin", MS_ERROR_BUNDLE, "the manifest names the image input '", name,
          "'; expected slot, prefill or pin");
  return ImageInput::pin;
}

ImageAt read_image_at(const std::string& name) {
  if (name == "first") return ImageAt::first;
  if (name == "every") return ImageAt::every;
  require(name == "grey", MS_ERROR_BUNDLE, "the manifest fills the image slot by the rule '", name,
          "'; expected first, every or grey");
  return ImageAt::grey;
}

void read_model(StreamConfig& config, const Json& json) {
  config.model = json.at("name").string();
  const int dim = size_of(json, "dim", 2, 1 << 20);
  config.heads = size_of(json, "heads", 1, dim);
  config.head_dim = dim / config.heads;
  require(dim % config.heads == 0 && config.head_dim % 2 == 0, MS_ERROR_BUNDLE, "the manifest says dim ", dim,
          " with ", config.heads, " heads; dim must be heads times an even head size");
  config.layers = size_of(json, "layers", 1, 4096);
  config.freq_dim = size_of(json, "freq_dim", 2, 1 << 16);
  for (const auto& slot : json.at("layout").array()) {
    require(slot.array().size() == 2, MS_ERROR_BUNDLE, "the manifest's layout must hold pairs (slot, channels)");
    const auto channels = slot.array()[1].integer();
    require(channels > 0 && channels <= 4096, MS_ERROR_BUNDLE, "a slot of the layout has ", channels, " channels");
    config.layout.emplace_back(slot.array()[0].string(), static_cast<int>(channels));
  }
  config.image_at = read_image_at(json.at("image_at").string());
  config.image_input = read_image_input(json.at("image_input").string());
  config.text = read_text(json.at("text"));
  config.spatial_stride = size_of(json.at("vae"), "spatial_stride", 1, 64);
  const Json& head = json.at("track_head");
  if (head.is_null()) return;
  config.max_tracks = size_of(head, "max_tracks", 1, 1 << 20);
  config.hides_outside = head.at("rounding").string() == "floor";
}

}  // namespace

StreamConfig StreamConfig::read(const Json& json) {
  StreamConfig config;
  read_model(config, json.at("model"));
  config.context = read_context(json.at("context"));
  config.schedule = read_schedule(json.at("schedule"));
  config.height = size_of(json, "height", 1, 1 << 14);
  config.width = size_of(json, "width", 1, 1 << 14);
  config.fps = json.at("fps").number();
  const int unit = 2 * config.spatial_stride;
  require(config.height % unit == 0 && config.width % unit == 0 && config.fps > 0, MS_ERROR_BUNDLE,
          "the manifest says ", config.height, "x", config.width, " at ", config.fps,
          " fps; the size must be a multiple of ", unit);
  config.sorted_json = json.sorted_text();
  return config;
}

Placement ContextConfig::place(std::int64_t start, int frames, std::int64_t sink_start) const {
  const std::int64_t end = start + frames;
  Placement placement;
  placement.start = start;
  placement.frames = frames;
  placement.first_written = start;
  if (frames > chunk_frames && start > sink_start)  // re-caching beside a kept sink
    placement.first_written = std::max({start, sink_start + sink_frames, end - ring_frames()});
  require(placement.written() <= cache_frames(), MS_ERROR_CONFIG, frames, " latent frames do not fit a context of ",
          cache_frames());
  const std::int64_t length = end - sink_start;
  placement.valid_frames = static_cast<int>(std::min<std::int64_t>(length, cache_frames()));
  placement.sink_position = sink_start + (relative ? std::max<std::int64_t>(0, length - cache_frames()) : 0);
  return placement;
}

int ContextConfig::slot(std::int64_t frame, std::int64_t sink_start, std::optional<std::int64_t> ring_start) const {
  const std::int64_t sink_end = sink_start + sink_frames;
  if (frame < sink_end) return static_cast<int>(frame - sink_start);
  const auto place = static_cast<int>((frame - ring_start.value_or(sink_end)) % ring_frames());
  return sink_frames + (place < 0 ? place + ring_frames() : place);
}

int StreamConfig::in_channels() const {
  int channels = 0;
  for (const auto& [slot, count] : layout) channels += count;
  return channels;
}

}  // namespace ms_infer
