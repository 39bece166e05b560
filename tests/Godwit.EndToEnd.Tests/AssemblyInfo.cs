// Each test runs up to four processes with busy threads; two at once on two cores would only wait for each other.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
