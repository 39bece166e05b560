using Godwit.Iommu.Intel;
using Godwit.Machine.Acpi;
using Godwit.Machine.Managed;
using Godwit.Memory;
using Godwit.Pci;
using Godwit.Pci.Spec;
using Godwit.Vfio;

namespace Godwit.Machine;

/// <summary>
/// The parts of a machine and how they are wired: RAM in two windows, host bridge with ECAM, vIOMMU, interrupt window, passthrough
/// functions from 00:03.0. Knows nothing of run states.
/// </summary>
internal sealed class Board : IDisposable
{
    private const int FirstDeviceSlot = 3;

    private readonly List<VfioPciFunction> _devices = [];

    private Board(MachineConfig config, BoardLayout layout)
    {
        Config = config;
        Layout = layout;
    }

    public MachineConfig Config { get; }

    public BoardLayout Layout { get; }

    public GuestRam Ram { get; } = new();

    public MemoryTopology Topology { get; } = new();

    public PciHostBridge Pci { get; private set; } = null!;

    public IntelIommu? Iommu { get; private set; }

    public IReadOnlyList<VfioPciFunction> Devices => _devices;

    public GuestBus Bus { get; private set; } = null!;

    /// <summary>Builds all but the vCPUs.</summary>
    /// <exception cref="IOException">A device cannot be attached.</exception>
    public static Board Build(MachineConfig config)
    {
        var board = new Board(config, BoardLayout.For(config.MemoryBytes));
        try
        {
            board.AddMemory();
            board.AddPci();
            return board;
        }
        catch
        {
            board.Dispose();
            throw;
        }
    }

    public IoApic IoApic { get; private set; } = null!;

    public PowerManagement Power { get; private set; } = null!;

    /// <summary>Places the interrupt window in front of the vCPUs' local APICs, and what interrupts without being a PCI function.</summary>
    /// <param name="apics">The local APICs.</param>
    /// <param name="off">Told, on its vCPU, that the guest has switched the machine off.</param>
    public void ConnectInterrupts(LocalApics apics, Action off)
    {
        Iommu?.ConnectEvents(apics);
        var handler = new InterruptWindow(apics, Iommu, requester => Pci.BypassesIommu(new RequesterId(requester)));
        var window = new MmioRegion("interrupt-messages", BoardLayout.InterruptSize, handler, InterruptWindow.Rules);
        Topology.Add(Topology.SystemRoot, BusAddress.FromGpa(BoardLayout.InterruptBase), window);
        IoApic = new IoApic((address, data) => handler.Send(IoApic.RequesterId, address, data), pin =>
        {
            if (pin is >= BoardLayout.FirstPciPin and < BoardLayout.FirstPciPin + PciHostBridge.InterruptInputs)
                Pci.EndInterrupt(pin - BoardLayout.FirstPciPin);
        });
        Pci.ConnectInputs((input, high) => IoApic.Set(BoardLayout.FirstPciPin + input, high));
        Topology.Add(
            Topology.SystemRoot, BusAddress.FromGpa(BoardLayout.IoApicBase),
            new MmioRegion("io-apic", BoardLayout.IoApicSize, IoApic, new MmioAccessRules(4, 4, AllowUnaligned: false)));
        Power = new PowerManagement(high => IoApic.Set(PowerManagement.SciPin, high), off);
        Topology.Add(
            Topology.SystemRoot, BusAddress.FromGpa(BoardLayout.PowerBase), new MmioRegion("power", PowerManagement.Size, Power, PowerManagement.Rules));
    }

    /// <summary>Writes what a firmware and a boot loader would leave for the guest.</summary>
    public void WriteFirmware()
    {
        string commandLine = MachineConfigValidation.CommandLine(GuestPrograms.Resolve(Config.Guest, Config.GuestOptions));
        foreach (PciFunction function in Pci.AllFunctions().Where(f => f.InterruptPin != 0))
            function.WriteConfig(ConfigOffset.InterruptLine, (uint)(BoardLayout.FirstPciPin + function.InterruptInput), 1);
        Write(BoardLayout.BootInfo, BootInfo.For(Layout, commandLine).ToPage());
        Write(BoardLayout.AcpiBase, AcpiImage.Build(BoardLayout.AcpiBase, BoardLayout.AcpiSize, Config, Pci));
    }

    /// <summary>Devices only: after this nothing waits for a device any more.</summary>
    public void DisposeDevices()
    {
        foreach (VfioPciFunction device in _devices)
            device.Dispose();
    }

    public void Dispose()
    {
        DisposeDevices();
        Ram.Dispose();
    }

    private void Write(Gpa address, byte[] bytes)
    {
        MemoryResult result = Topology.System.Write(BusAddress.FromGpa(address), bytes, TransactionAttributes.Vmm);
        if (result != MemoryResult.Ok)
            throw new InvalidOperationException($"{bytes.Length} bytes of firmware at {address} cannot be written: {result}.");
    }

    private void AddMemory()
    {
        RamBlock block = Ram.Add("main", Config.MemoryBytes);
        var region = new RamRegion("main", block);
        using (Topology.Begin())
        {
            Topology.Add(Topology.SystemRoot, default, new AliasRegion("ram-below-4g", region, 0, Layout.LowRamSize));
            Topology.Add(
                Topology.SystemRoot, BusAddress.FromGpa(BoardLayout.HighRamBase),
                new AliasRegion("ram-above-4g", region, Layout.LowRamSize, Layout.HighRamSize));
        }

        Bus = new GuestBus(Topology.System, Ram, block, Layout);
    }

    private void AddPci()
    {
        Pci = new PciHostBridge(Topology, BoardLayout.EcamBase, BoardLayout.EcamBuses);
        if (Config.Iommu == IommuKind.Intel)
        {
            Iommu = new IntelIommu(Topology, Config.Intel);
            Pci.RootBus.SetIommu(Iommu);
        }

        int slot = FirstDeviceSlot;
        foreach (VfioDeviceOptions options in Config.Devices)
        {
            VfioPciFunction device = VfioPciFunction.Connect(options, Topology, Ram);
            _devices.Add(device);
            Pci.RootBus.Attach(device, new DevFn(slot++, 0));
        }
    }
}
