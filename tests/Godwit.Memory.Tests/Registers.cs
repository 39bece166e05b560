namespace Godwit.Memory.Tests;

/// <summary>A register handler whose accesses are recorded and whose behaviour each test gives.</summary>
internal sealed class Registers : IMmioHandler
{
    internal List<string> Log { get; } = [];

    internal List<string> Refusals { get; } = [];

    internal Func<ulong, int, ulong> OnRead { get; set; } = (_, _) => 0;

    internal Action<ulong, ulong, int> OnWrite { get; set; } = (_, _, _) => { };

    internal TransactionAttributes LastAttributes { get; private set; }

    public ulong Read(ulong offset, int size, in TransactionAttributes attributes)
    {
        LastAttributes = attributes;
        lock (Log)
            Log.Add($"r{size}@{offset:x}");
        return OnRead(offset, size);
    }

    public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
    {
        LastAttributes = attributes;
        lock (Log)
            Log.Add($"w{size}@{offset:x}={value:x}");
        OnWrite(offset, value, size);
    }

    public void Refused(ulong offset, int length, bool write, in TransactionAttributes attributes)
    {
        lock (Log)
            Refusals.Add($"{(write ? 'w' : 'r')}{length}@{offset:x}");
    }
}
