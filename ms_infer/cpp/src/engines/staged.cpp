#include "engines/staged.hpp"

#include <algorithm>

namespace ms_infer {

namespace {

// Passes over every chunk of the context when it is encoded again, in float32 and in any other precision.
constexpr int kRecacheRounds = 4, kFewerRounds = 3;

}  // namespace

StagedEngine::StagedEngine(std::shared_ptr<Model> model, bool on_device)
    : model_(std::move(model)),
      manifest_(*model_->manifest()),
      config_(manifest_.config),
      steps_(denoise_steps(config_.schedule)),
      tokenizer_(config_.text),
      arrays_(std::make_unique<HostArrays>(model_->stages())),
      runner_(model_->engine().runner(*arrays_, {&cancelled_, on_device})),
      ring_(config_.context, !manifest_.writes_per_frame) {
  bind_inputs();
  runner_->load();
}

void StagedEngine::bind_inputs() {
  const auto floats = [&](const char* name) { return arrays_->values<float>(Stage::denoise, name); };
  const auto indices = [&](const char* name) { return arrays_->values<std::int64_t>(Stage::denoise, name); };
  x_ = floats("x");
  write_index_ = indices("write_index"), n_valid_ = indices("n_valid");
  plane_ = std::size_t(config_.latent_height()) * std::size_t(config_.latent_width());
  for (const auto& [name, channels] : config_.layout)
    slots_.push_back({name, channels, floats(name == "noise" ? "x" : name.c_str())});
  const auto frames = static_cast<std::size_t>(config_.context.chunk_frames);
  for (const Slot& slot : slots_)
    require(slot.values.size() == frames * static_cast<std::size_t>(slot.channels) * plane_, MS_ERROR_BUNDLE,
            "the manifest's tensor '", slot.name, "' does not fit its settings; export again");
  require(floats("x_next").size() == x_.size() && floats("noise").size() == x_.size() &&
              floats("sigma").size() == frames && floats("next_sigma").size() == frames && n_valid_.size() == 1 &&
              floats("time").size() == frames * static_cast<std::size_t>(config_.freq_dim) &&
              write_index_.size() == (manifest_.writes_per_frame ? frames : 1),
          MS_ERROR_BUNDLE, "the manifest's stage 'denoise' does not fit its settings; export again");
  tables_ = {floats("cos"), floats("sin"), config_.token_rows(), config_.token_columns(), config_.head_dim};
  if (config_.rolls()) {
    const auto table = [&](const char* name) { return arrays_->values<float>(Stage::roll, name); };
    sink_tables_ = {table("sink_cos"), table("sink_sin"), config_.token_rows(), config_.token_columns(),
                    config_.head_dim};
    sink_index_ = indices("sink_index");
  }
  for (const bool opening : {false, true}) bind_opening(opening);
  capacity_ = config_.context.cache_frames() + config_.context.chunk_frames;
  history_.resize(static_cast<std::size_t>(capacity_) * static_cast<std::size_t>(config_.in_channels()) * plane_);
  bind_passes();
  std::vector<double> timesteps{0.0, config_.schedule.context_timestep};
  for (const auto& step : steps_) timesteps.push_back(step.timestep);
  for (const double timestep : timesteps) {
    Sinusoid& added = sinusoids_.emplace_back(Sinusoid{timestep, std::vector<float>(std::size_t(config_.freq_dim))});
    fill_timestep_sinusoids(timestep, added.values);
  }
}

void StagedEngine::bind_passes() {
  const auto frames = static_cast<std::size_t>(config_.context.chunk_frames);
  const std::size_t time = frames * static_cast<std::size_t>(config_.freq_dim), noise = x_.size();
  noise_.reserve(config_.schedule.fresh_noise ? steps_.size() : 1, x_.size());
  passes_.resize(steps_.size() + 1);
  for (PassInputs& pass : passes_) {
    pass.values.resize(time + 2 * frames + noise);
    std::span<float> left(pass.values);
    for (auto [part, size] : {std::pair{&pass.time, time}, {&pass.sigma, frames}, {&pass.next_sigma, frames},
                              {&pass.noise, noise}}) {
      *part = left.first(size);
      left = left.subspan(size);
    }
  }
}

void StagedEngine::bind_opening(bool opening) {
  const Stage decode = opening ? Stage::decode_first : Stage::decode;
  const auto latents = opening ? config_.context.opening_frames : config_.context.chunk_frames;
  const auto count = static_cast<std::size_t>(rgb_frames(latents, opening));
  const auto pixels = static_cast<std::size_t>(config_.height) * static_cast<std::size_t>(config_.width);
  bool fits = arrays_->bytes(decode, "frames").size() == 3 * count * pixels;
  if (config_.has_track_head()) {
    const Stage stage = opening ? Stage::points_first : Stage::points;
    const auto tracks = static_cast<std::size_t>(config_.max_tracks);
    PointInputs& inputs = point_inputs_[opening];
    inputs.points = arrays_->values<float>(stage, "points");
    inputs.visible = arrays_->values<std::uint8_t>(stage, "visible");
    inputs.ids = arrays_->values<std::int64_t>(stage, "ids");
    if (arrays_->spec(stage)->find("anchors")) inputs.anchors = arrays_->values<float>(stage, "anchors");
    fits = fits && inputs.points.size() == 2 * tracks * count && inputs.visible.size() == tracks * count &&
           inputs.ids.size() == tracks && (inputs.anchors.empty() || inputs.anchors.size() == 2 * tracks);
  }
  require(fits, MS_ERROR_BUNDLE, "the manifest's stage '", stage_name(decode), "' does not fit its settings");
}

std::vector<float> StagedEngine::embed(std::string_view prompt) {
  const auto size = static_cast<std::size_t>(config_.text.tokens) * static_cast<std::size_t>(config_.text.dim);
  if (!config_.text.words) {
    require(prompt.empty(), MS_ERROR_CONFIG, "the model ", config_.model,
            " reads prompts with umT5, which this library does not run; give a ready embedding [<= ",
            config_.text.tokens, ", ", config_.text.dim, "], in memory or as a .npy file");
    return std::vector<float>(size, 0.0f);
  }
  const std::lock_guard lock(embedding_);
  tokenizer_.fill(prompt, arrays_->values<std::int64_t>(Stage::text, "words"));
  runner_->run(Stage::text);
  const auto embedded = arrays_->values<float>(Stage::text, "text");
  return {embedded.begin(), embedded.end()};
}

void StagedEngine::set_text(std::span<const float> embedding) {
  const auto target = arrays_->values<float>(Stage::condition, "text");
  require(embedding.size() == target.size(), MS_ERROR_CONFIG, "the text embedding has ", embedding.size(),
          " values; expected ", target.size());
  std::copy(embedding.begin(), embedding.end(), target.begin());
  runner_->run(Stage::condition);
}

void StagedEngine::set_image(std::span<const std::uint8_t> image) {
  image_latents_.clear();
  given_ = 0;
  if (!arrays_->has(Stage::encode)) return;
  const auto target = arrays_->values<float>(Stage::encode, "image");
  if (image.empty()) {
    std::fill(target.begin(), target.end(), 0.5f);  // what `points` moves when there is no image
    runner_->hand_over(Stage::encode);
    return;
  }
  const std::size_t pixels = target.size() / 3;
  for (std::size_t pixel = 0; pixel < pixels; ++pixel)
    for (std::size_t channel = 0; channel < 3; ++channel)
      target[channel * pixels + pixel] = float(image[3 * pixel + channel]) / 255.0f;
  encode_image(Stage::encode);
  if (arrays_->has(Stage::look)) look();
  if (config_.image_input == ImageInput::prefill) write_given();
}

// Adds the next latent frame of the image slot.
void StagedEngine::encode_image(Stage stage) {
  runner_->run(stage);
  const auto latent = arrays_->values<float>(stage, "image_latent");
  image_latents_.emplace_back(latent.begin(), latent.end());
}

// Tokens of the first frame into the keys of the prompt that was set last.
void StagedEngine::look() {
  runner_->run(Stage::look);
  const auto tokens = arrays_->values<float>(Stage::look, "image_tokens");
  const auto target = arrays_->values<float>(Stage::condition, "image_tokens");
  require(tokens.size() == target.size(), MS_ERROR_BUNDLE, "the manifest's stages 'look' and 'condition' do not fit");
  std::copy(tokens.begin(), tokens.end(), target.begin());
  runner_->run(Stage::condition);
}

// What the image slot holds at a latent frame; empty: zeros.
std::span<const float> StagedEngine::image_slot(std::int64_t frame) {
  if (image_latents_.empty() || (config_.image_at == ImageAt::first && frame)) return {};
  const auto place =
      static_cast<std::size_t>(config_.image_at == ImageAt::grey ? std::min(frame, kGreyLatentFrames) : 0);
  while (image_latents_.size() <= place) encode_image(Stage::encode_grey);
  return image_latents_[place];
}

void StagedEngine::write_given() {
  runner_->prepare();
  std::fill(x_.begin(), x_.end(), 0.0f);
  std::copy(image_latents_[0].begin(), image_latents_[0].end(), x_.begin());
  place(0, 1);
  fill_image_slots(0, 1);
  runner_->write_given(clean_pass(0.0));
  remember(0, 1);
  made_ = given_ = 1;
}

void StagedEngine::generate(const ChunkPlan& plan) {
  runner_->prepare();
  plan_ = plan;
  make_room(plan.placement.start);
  place(plan.placement.start, plan.placement.start + plan.placement.frames);
  fill_image_slots(plan.placement.start, plan.placement.frames);
  if (plan.player) fill_points();
  fill_passes();
  runner_->start(plan.opening, plan.player != nullptr, passes_);
}

std::span<const std::uint8_t> StagedEngine::frames() {
  draw_ahead();
  return runner_->frames();
}

DeviceFrames StagedEngine::device_frames() {
  draw_ahead();
  return runner_->device_frames();
}

// Draws the next chunk's noise while a device works.
void StagedEngine::draw_ahead() {
  noise_.prepare(plan_.seed, static_cast<std::uint64_t>(plan_.index) + 1, noise_count(config_.context.chunk_frames));
}

// Moves the window in the caches where the chunk's slots would not be in a row.
void StagedEngine::make_room(std::int64_t start) {
  const int cells = config_.tokens_per_frame();
  if (const auto move = ring_.make_room(start))
    runner_->move_rows(std::int64_t{move->target} * cells, std::int64_t{move->source} * cells,
                       std::int64_t{move->slots} * cells);
}

// Point tables and write indices at the chunk from `start` on, which sees all before the frame `until`. A chunk shorter
// than the graph is filled up with frames of zeros: they land in slots that the next chunks write before they become
// valid.
void StagedEngine::place(std::int64_t start, std::int64_t until) {
  const int cells = config_.tokens_per_frame();
  const Placement placement = config_.context.place(until, 0, sink_start());
  tables_.move_to(start);
  for (std::size_t j = 0; j < write_index_.size(); ++j)
    write_index_[j] = std::int64_t{ring_.slot(start + std::int64_t(j))} * cells;
  n_valid_[0] = std::int64_t{placement.valid_frames} * cells;
  if (!config_.rolls()) return;
  sink_tables_.move_to(placement.sink_position);
  sink_index_[0] = std::min<std::int64_t>(start - sink_start(), config_.context.sink_frames) * cells;
}

std::span<float> StagedEngine::frame_of(const Slot& slot, int frame) const {
  const std::size_t size = static_cast<std::size_t>(slot.channels) * plane_;
  return slot.values.subspan(static_cast<std::size_t>(frame) * size, size);
}

void StagedEngine::fill_image_slots(std::int64_t start, int frames) {
  for (const Slot& slot : slots_) {
    if (slot.name != "image" && slot.name != "mask") continue;
    for (int j = 0; j < frames; ++j) {
      const bool carried = !image_latents_.empty() && (config_.image_at == ImageAt::every || start + j == 0);
      const auto target = frame_of(slot, j);
      std::fill(target.begin(), target.end(), carried && slot.name == "mask" ? 1.0f : 0.0f);
      if (slot.name != "image") continue;
      const auto shown = image_slot(start + j);
      std::copy(shown.begin(), shown.end(), target.begin());
    }
  }
}

void StagedEngine::fill_points() {
  const PointInputs& inputs = point_inputs_[plan_.opening];
  plan_.player->fill(plan_.first_rgb_frame, static_cast<int>(rgb_frames(plan_.placement.frames, plan_.opening)),
                     inputs.points, inputs.visible, inputs.ids, inputs.anchors);
}

bool StagedEngine::pins_image() const {
  return config_.image_input == ImageInput::pin && !image_latents_.empty() && plan_.placement.start == 0;
}

void StagedEngine::pin_image() {
  if (pins_image()) std::copy(image_latents_[0].begin(), image_latents_[0].end(), x_.begin());
}

std::span<const float> StagedEngine::sinusoid(double timestep) const {
  for (const Sinusoid& known : sinusoids_)
    if (known.timestep == timestep) return known.values;
  fail(MS_ERROR_INTERNAL, "no sinusoids of timestep ", timestep);
}

// A pinned first frame stays as it is.
void StagedEngine::fill_pass(PassInputs& pass, double timestep, double sigma, double next_sigma, bool pinned) {
  const auto width = static_cast<std::size_t>(config_.freq_dim);
  for (std::size_t j = 0; j < pass.sigma.size(); ++j) {
    const bool still = pinned && j == 0;
    const auto angles = sinusoid(still ? 0.0 : timestep);
    std::copy(angles.begin(), angles.end(), pass.time.begin() + static_cast<std::ptrdiff_t>(j * width));
    pass.sigma[j] = still ? 0.0f : static_cast<float>(sigma);
    pass.next_sigma[j] = still ? 0.0f : static_cast<float>(next_sigma);
  }
}

// First noise, and timestep, sigmas and fresh noise of every pass.
void StagedEngine::fill_passes() {
  const auto drawn = [&](std::size_t draw) {
    return noise_.take(plan_.seed, static_cast<std::uint64_t>(plan_.index), noise_count(plan_.placement.frames), draw);
  };
  const auto first = drawn(0);
  std::fill(std::copy(first.begin(), first.end(), x_.begin()), x_.end(), 0.0f);
  pin_image();
  for (std::size_t step = 0; step < steps_.size(); ++step) {
    const DenoiseStep& now = steps_[step];
    const bool renoised = now.next_sigma != 0 && config_.schedule.fresh_noise;
    const double sigma = renoised ? now.sigma : now.sigma - now.next_sigma;  // an Euler step in the graph's own form
    fill_pass(passes_[step], now.timestep, sigma, renoised ? now.next_sigma : 0.0, pins_image());
    if (!renoised) continue;
    const auto fresh = drawn(step + 1);
    std::copy(fresh.begin(), fresh.end(), passes_[step].noise.begin());
  }
  fill_pass(passes_.back(), config_.schedule.context_timestep, 0.0, 0.0, false);
}

// The pass that writes the final keys and values of what `x` holds.
const PassInputs& StagedEngine::clean_pass(double timestep) {
  fill_pass(passes_.back(), timestep, 0.0, 0.0, false);
  return passes_.back();
}

void StagedEngine::commit() {
  runner_->commit();
  remember(plan_.placement.start, plan_.placement.frames);
  made_ = plan_.placement.start + plan_.placement.frames;
}

std::span<float> StagedEngine::remembered(std::int64_t frame) {
  const std::size_t size = static_cast<std::size_t>(config_.in_channels()) * plane_;
  return std::span(history_).subspan(static_cast<std::size_t>(frame % capacity_) * size, size);
}

void StagedEngine::remember(std::int64_t start, int frames) {
  for (int j = 0; j < frames; ++j) {
    auto target = remembered(start + j).begin();
    for (const Slot& slot : slots_) {
      const auto part = frame_of(slot, j);
      target = std::copy(part.begin(), part.end(), target);
    }
  }
}

void StagedEngine::recall(std::int64_t start, int frames) {
  for (int j = 0; j < frames; ++j) {
    auto source = remembered(start + j).begin();
    for (const Slot& slot : slots_) {
      const auto target = frame_of(slot, j);
      std::copy_n(source, target.size(), target.begin());
      source += static_cast<std::ptrdiff_t>(target.size());
    }
  }
}

void StagedEngine::recache(bool replace_sink) {
  const ContextConfig& context = config_.context;
  std::int64_t start = std::max<std::int64_t>(sink_start(), made_ - context.reencoded_frames());
  if (start > sink_start() && replace_sink)
    ring_.reset(start);
  else if (start > sink_start())  // beside a kept sink only what the ring holds is read again
    start = std::max(sink_start() + context.sink_frames, made_ - context.ring_frames());
  ring_.unroll(made_);
  std::vector<std::int64_t> firsts;
  for (std::int64_t run = made_ - context.chunk_frames; run > start - context.chunk_frames; run -= context.chunk_frames)
    firsts.push_back(std::max(start, run));
  std::sort(firsts.begin(), firsts.end());
  firsts.erase(std::unique(firsts.begin(), firsts.end()), firsts.end());
  const int needed = std::min(model_->engine().precision() == "fp32" ? kRecacheRounds : kFewerRounds, config_.layers);
  const int rounds = firsts.size() > 1 ? needed : 1;  // a chunk alone depends on no other that is made anew
  for (int round = 0; round < rounds; ++round)
    for (const std::int64_t first : firsts) {
      runner_->prepare();
      place(first, made_);
      recall(first, static_cast<int>(std::min<std::int64_t>(context.chunk_frames, made_ - first)));
      runner_->write(clean_pass(config_.schedule.context_timestep));
    }
}

void StagedEngine::reset() {
  for (const Slot& slot : slots_) std::fill(slot.values.begin(), slot.values.end(), 0.0f);
  std::fill(history_.begin(), history_.end(), 0.0f);
  image_latents_.clear();
  made_ = given_ = 0;
  ring_.reset();
  runner_->reset();
}

}  // namespace ms_infer
