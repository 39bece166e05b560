namespace Godwit.VfioUser.Tests;

/// <summary>Ordinary time, and something that happens when somebody looks.</summary>
internal sealed class InterruptedClock : TimeProvider
{
    private Action? _interrupt;

    /// <summary>What happens at the next look, once, on the thread that looks.</summary>
    public Action? Interrupt
    {
        get => Volatile.Read(ref _interrupt);
        set => Volatile.Write(ref _interrupt, value);
    }

    public override long GetTimestamp()
    {
        Interlocked.Exchange(ref _interrupt, null)?.Invoke();
        return base.GetTimestamp();
    }
}
