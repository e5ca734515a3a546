def open_feed(*a, **k): raise NotImplementedError
