#![cfg_attr(fuzzing, no_main)]
tapio_fuzz::target!(config);
