//! The unified event, the entity, the change, the story.
