// Tests count this process's descriptors, so they take turns.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
