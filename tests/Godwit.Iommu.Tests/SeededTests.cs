namespace Godwit.Iommu.Tests;

public class SeededTests
{
    [Fact]
    public void AFailureIsToldWithTheLeastThatFails()
    {
        // Fails when a number is above 700 and one after it is below 300.
        var failure = Assert.Throws<InvalidOperationException>(() => Seeded.Run(1, choices =>
        {
            bool high = false;
            for (int step = 0; step < 100 && !choices.AtEnd; step++)
            {
                choices.Begin();
                int value = choices.Next(1000);
                choices.Note($"chose {value}");
                Assert.False(high && value < 300, $"{value} after a high one");
                high |= value > 700;
            }
        }));
        Assert.Contains("Failed with GODWIT_SEED=", failure.Message, StringComparison.Ordinal);
        Assert.Contains("The least that fails, 2 of ", failure.Message, StringComparison.Ordinal);
        Assert.Contains("0 after a high one", failure.Message, StringComparison.Ordinal);
        Assert.EndsWith($"  chose 701{Environment.NewLine}  chose 0", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AFailureThatDoesNotComeAgainIsToldToo()
    {
        bool first = true;
        var failure = Assert.Throws<InvalidOperationException>(() => Seeded.Run(1, choices =>
        {
            bool fails = first;
            first = false;
            Assert.False(fails, "once");
        }));
        Assert.Contains("once", failure.Message, StringComparison.Ordinal);
        Assert.EndsWith("It does not fail with the same choices again.", failure.Message, StringComparison.Ordinal);
    }
}
