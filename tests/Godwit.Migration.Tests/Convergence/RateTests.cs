namespace Godwit.Migration.Tests;

public sealed class RateTests
{
    [Fact]
    public void The_estimate_is_the_first_large_sample_and_follows_later_ones()
    {
        var rate = new RateEstimator();
        Assert.Equal(RateEstimator.Unknown, rate.BytesPerSecond);
        rate.Add(RateEstimator.SmallSample - 1, TimeSpan.FromSeconds(1)); // latency
        Assert.Equal(RateEstimator.Unknown, rate.BytesPerSecond);
        rate.Add(1L << 30, TimeSpan.FromSeconds(2));
        Assert.Equal(1 << 29, rate.BytesPerSecond, 1.0);
        for (int i = 0; i < 1000; i++)
            rate.Add(4096, TimeSpan.FromMilliseconds(1));
        Assert.Equal(1 << 29, rate.BytesPerSecond, 1.0);
        rate.Add(128 << 20, TimeSpan.FromSeconds(1));
        Assert.InRange(rate.BytesPerSecond, 128 << 20, 1 << 29);
        rate.Add(1L << 30, TimeSpan.FromSeconds(8));
        Assert.InRange(rate.BytesPerSecond, (128 << 20) * 0.99, (128 << 20) * 1.05);
        rate.Add(1 << 30, TimeSpan.Zero); // a clock that stands still says nothing
        Assert.InRange(rate.BytesPerSecond, (128 << 20) * 0.99, (128 << 20) * 1.05);
    }

    [Fact]
    public void The_first_sample_counts_only_until_there_is_another()
    {
        var rate = new RateEstimator();
        rate.Add(122 << 20, TimeSpan.FromSeconds(12)); // all is executed and touched for the first time
        Assert.Equal((122 << 20) / 12.0, rate.BytesPerSecond, 1.0);
        rate.Add(RateEstimator.SmallSample - 1, TimeSpan.FromMilliseconds(1)); // not one
        Assert.Equal((122 << 20) / 12.0, rate.BytesPerSecond, 1.0);
        rate.Add(2 << 20, TimeSpan.FromMilliseconds(10));
        Assert.Equal((2 << 20) / 0.01, rate.BytesPerSecond, 1.0);
        rate.Add(2 << 20, TimeSpan.FromMilliseconds(30)); // the second stays
        Assert.Equal((4 << 20) / 0.04, rate.BytesPerSecond, 0.01 * (4 << 20) / 0.04);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(1_000_000)]
    [InlineData(long.MaxValue)]
    public void The_bucket_keeps_the_average_whatever_the_sizes(long rate)
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        var clock = new ManualClock();
        var bucket = new TokenBucket(clock);
        bucket.Take(0, rate);
        long began = clock.GetTimestamp();
        double sent = 0;
        for (int i = 0; i < 1000; i++)
        {
            int bytes = random.Next(1, 1 << 20);
            sent += bytes;
            for (TimeSpan wait = bucket.Take(bytes, rate); wait > TimeSpan.Zero; wait = bucket.Remaining(rate))
                clock.Advance(wait + TimeSpan.FromTicks(1));
        }

        double seconds = clock.GetElapsedTime(began).TotalSeconds;
        double least = (sent / rate) - 0.021; // the depth of the bucket
        Assert.True(seconds >= least && seconds <= Math.Max(0, least) + 0.022 + (1000 * 1e-6), $"seed {seed}: {seconds} s for {sent} bytes");
    }

    [Fact]
    public void The_bucket_does_not_save_up_a_burst()
    {
        var clock = new ManualClock();
        var bucket = new TokenBucket(clock);
        bucket.Take(0, 1000);
        clock.Advance(TimeSpan.FromHours(1));
        Assert.Equal(TimeSpan.FromMilliseconds(980), bucket.Take(1000, 1000));
    }

    [Fact]
    public void A_new_rate_holds_at_once_for_the_debt_of_the_old()
    {
        var clock = new ManualClock();
        var bucket = new TokenBucket(clock);
        Assert.Equal(TimeSpan.FromSeconds(1000), bucket.Take(1000, 1));
        clock.Advance(TimeSpan.FromSeconds(500));
        Assert.Equal(TimeSpan.FromSeconds(5), bucket.Remaining(100));
        Assert.Equal(TimeSpan.Zero, bucket.Remaining(0));
        Assert.Equal(TimeSpan.FromSeconds(10), bucket.Take(1000, 100));
    }

    [Theory]
    [InlineData("max-bandwidth")]
    [InlineData("downtime-limit")]
    [InlineData("x-min-precopy")]
    [InlineData("x-max-rounds")]
    public void Settings_outside_their_range_are_refused_by_name(string name)
    {
        using var machine = new TestMachine();
        using var controller = new MigrationController(machine, TimeProvider.System);
        MigrationParameters[] wrong = name switch
        {
            "max-bandwidth" => [new() { MaxBandwidth = -1 }],
            "downtime-limit" => [new() { DowntimeLimit = TimeSpan.Zero }, new() { DowntimeLimit = TimeSpan.FromSeconds(2001) }],
            "x-min-precopy" => [new() { MinimumPrecopy = TimeSpan.FromTicks(-1) }, new() { MinimumPrecopy = TimeSpan.FromDays(2) }],
            _ => [new() { MaxRounds = 0 }],
        };
        foreach (MigrationParameters parameters in wrong)
            Assert.Contains(name, Assert.Throws<ArgumentOutOfRangeException>(() => controller.Parameters = parameters).Message, StringComparison.Ordinal);
        Assert.Equal(new MigrationParameters(), controller.Parameters);
    }
}
