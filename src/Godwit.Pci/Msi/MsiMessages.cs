using Godwit.Pci.Spec;

namespace Godwit.Pci;

/// <summary>
/// MSI of a function: 1 to 32 vectors that share one address and differ in the low bits of the data (PCI Express 5.0, 7.7.1). Without per-vector
/// masking, so that all its state is in configuration space. Sends as <see cref="MsixTable"/> does. <see cref="Raise"/> may be called from any
/// thread.
/// </summary>
public sealed class MsiMessages
{
    private readonly PciFunction _function;
    private readonly int _offset, _data;
    private readonly bool _wide;
    private int _vectors; // enabled now

    /// <summary>Adds the capability to <paramref name="function"/>, which has none yet. Before it is plugged or in its OnAttached.</summary>
    /// <param name="function">The function.</param>
    /// <param name="vectors">Vectors it can ask for: 1, 2, 4, 8, 16 or 32.</param>
    /// <param name="wide">Whether it can send to addresses above 4 GiB.</param>
    /// <param name="at">Offset, or where room is.</param>
    /// <exception cref="ArgumentException">Another number of vectors, or the place is taken.</exception>
    public MsiMessages(PciFunction function, int vectors, bool wide, int? at = null)
    {
        ArgumentNullException.ThrowIfNull(function);
        if (vectors is < 1 or > MsiCapability.MaxVectors || !int.IsPow2(vectors))
            throw new ArgumentOutOfRangeException(nameof(vectors), vectors, $"{function.Name}: MSI has 1, 2, 4, 8, 16 or 32 vectors");
        _function = function;
        _wide = wide;
        Vectors = vectors;
        _offset = function.Config.AddCapability(CapabilityId.Msi, wide ? MsiCapability.WideLength : MsiCapability.Length, at);
        _data = _offset + (wide ? MsiCapability.WideData : MsiCapability.Data);
        uint control = ((uint)int.Log2(vectors) << MsiCapability.CapableShift) | (wide ? MsiCapability.Wide : 0u);
        function.Config.Define(_offset + MsiCapability.MessageControl, 2, control, MsiCapability.Enable | MsiCapability.EnabledMask);
        function.Config.Define(_offset + MsiCapability.Address, 4, 0, ~3u);
        if (wide)
            function.Config.Define(_offset + MsiCapability.UpperAddress, 4, 0, uint.MaxValue);
        function.Config.Define(_data, 2, 0, 0xFFFF);
        function.SetMsi(this);
    }

    /// <summary>Vectors it can ask for.</summary>
    public int Vectors { get; }

    /// <summary>Vectors that the guest has enabled; 0 while MSI is off.</summary>
    public int EnabledVectors => Volatile.Read(ref _vectors);

    /// <summary>
    /// Sends the message of <paramref name="vector"/>: nothing while MSI is off, and with the lowest vectors only when the guest gave fewer than
    /// asked for (7.7.1.4: the function then shares). Lost while bus mastering is off, as on hardware.
    /// </summary>
    public void Raise(int vector)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)vector, (uint)Vectors, nameof(vector));
        int enabled = EnabledVectors;
        if (enabled == 0)
            return;
        ulong address = _function.Config.Read(_offset + MsiCapability.Address, 4);
        if (_wide)
            address |= (ulong)_function.Config.Read(_offset + MsiCapability.UpperAddress, 4) << 32;
        uint mask = (uint)enabled - 1;
        uint data = (_function.Config.Read(_data, 2) & ~mask) | ((uint)vector & mask);
        _function.SendMessage(address, data);
    }

    /// <summary>The control register may have changed.</summary>
    internal void ControlWritten()
    {
        uint control = _function.Config.Read(_offset + MsiCapability.MessageControl, 2);
        int wanted = 1 << (int)((control & MsiCapability.EnabledMask) >> MsiCapability.EnabledShift);
        // 7.7.1.2: more than it is capable of, and the two reserved encodings, count as all.
        int vectors = (control & MsiCapability.Enable) == 0 ? 0 : Math.Min(wanted, Vectors);
        if (Interlocked.Exchange(ref _vectors, vectors) != vectors)
            _function.OnMsiControlChanged();
    }
}
