"""Several tasks at once for one network: scenes, speech and text; properties of molecules."""
