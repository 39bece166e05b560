namespace Godwit.VfioUser.Tests;

public sealed class AnswerTimeTests
{
    /// <summary>Whatever an answer may take, a timer can count the time from look to look, and comes again.</summary>
    [Theory]
    [InlineData(1, TimeSpan.TicksPerMillisecond)]
    [InlineData(2 * TimeSpan.TicksPerMillisecond, TimeSpan.TicksPerMillisecond)]
    [InlineData(10 * TimeSpan.TicksPerSecond, 2500 * TimeSpan.TicksPerMillisecond)]
    [InlineData(long.MaxValue, TimeSpan.TicksPerMinute)]
    public void It_is_looked_at_four_times_within_bounds(long limit, long period) =>
        Assert.Equal(period, new AnswerTime(TimeProvider.System, TimeSpan.FromTicks(limit)).Period.Ticks);
}
