#include "controls.hpp"

namespace ms_infer {

Control Control::shifted(std::int64_t by) const {
  Control moved = *this;
  moved.tracks.id += by, moved.prompt.id += by;
  return moved;
}

PromptControl PromptControl::followed_by(const PromptControl& newest, std::size_t dim) const {
  if (!changes(newest)) return *this;
  PromptControl next = newest.id != id ? newest : *this;
  if (newest.id != id && next.blend.chunks > 1) next.origin = shown(dim);
  if (++next.done >= next.blend.chunks) next.origin = nullptr;
  return next;
}

std::shared_ptr<const Control> Controls::newest() const {
  const std::lock_guard lock(lock_);
  return newest_;
}

std::int64_t Controls::set_tracks(std::shared_ptr<const Tracks> tracks) {
  const std::lock_guard lock(lock_);
  newest_ = std::make_shared<const Control>(Control{{last_ + 1, std::move(tracks)}, newest_->prompt});
  return ++last_;
}

std::int64_t Controls::set_prompt(PromptControl prompt) {
  const std::lock_guard lock(lock_);
  prompt.id = last_ + 1;
  newest_ = std::make_shared<const Control>(Control{newest_->tracks, std::move(prompt)});
  return ++last_;
}

std::int64_t Controls::reserve(std::int64_t first, std::int64_t last) {
  const std::lock_guard lock(lock_);
  const std::int64_t shift = last_ ? std::max<std::int64_t>(0, last_ + 1 - first) : 0;
  last_ = last + shift;
  return shift;
}

void Controls::begin(const Control& base) {
  const std::lock_guard lock(lock_);
  Control next = *newest_;
  if (next.tracks.id <= base.id()) next.tracks = base.tracks;
  if (next.prompt.id <= base.id()) next.prompt = base.prompt;
  newest_ = std::make_shared<const Control>(std::move(next));
}

}  // namespace ms_infer
