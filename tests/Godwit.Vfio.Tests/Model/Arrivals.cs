using System.Collections.Concurrent;
using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>Where interrupt messages of a board arrive.</summary>
internal sealed class Arrivals(BlockingCollection<uint> arrived) : IMmioHandler
{
    public ulong Read(ulong offset, int size, in TransactionAttributes attributes) => 0;

    public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes) => arrived.Add((uint)value);
}
